"""The bodies of keys, alone and with the source that a key is issued with."""

from collections.abc import Callable
from typing import Any, ClassVar

from marshmallow import Schema, ValidationError, fields, post_load, validate

from app.credentials.policies import (
    EVENT_TYPE_CHARACTERS_MAX,
    EVENT_TYPE_PATTERN,
    ORIGIN_CHARACTERS_MAX,
    POLICY_ENTRIES_MAX,
    read_event_type_pattern,
    read_origin,
)
from app.management.common.lifetimes import DAYS_MAX, CredentialState
from app.management.common.mutations import Change
from app.management.common.schemas import (
    DigitsField,
    ObjectSchema,
    ParsedText,
    RequestSchema,
    change_schema,
    choice_field,
    expires_within_field,
    expiry_field,
    flag_field,
    id_field,
    label_field,
    moment_field,
    page_schema,
    rate_field,
)
from app.management.keys.domain import (
    GRACE_SECONDS_DEFAULT,
    GRACE_SECONDS_MAX,
    NO_EVENT_TYPES,
    KeyPolicy,
    NewKey,
    Rotation,
)
from app.management.keys.queries import KeyFilter
from app.web.schema_fields import OutputSchema
from app.wire.client_address import read_network

# The longest is an IPv6 address that ends as an IPv4 one, with its prefix.
_NETWORK_PATTERN = "^[0-9A-Fa-f:.]{2,45}(/[0-9]{1,3})?$"


class _Entries(fields.List[str]):
    """Entries of a policy; of entries that mean the same, the first is kept."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        return list(dict.fromkeys(super()._deserialize(value, attr, data, **kwargs)))


def _entries_field(read: Callable[[str], str], description: str, **described: Any) -> fields.List[str]:
    return _Entries(
        ParsedText(read, metadata=described),
        allow_none=True,
        validate=validate.Length(1, POLICY_ENTRIES_MAX),
        metadata={"description": description},
    )


class KeyPolicySchema(Schema):
    """The members of a request that make a KeyPolicy."""

    events_per_second = rate_field("the workspace's default for its keys")
    allowed_event_types = _entries_field(
        read_event_type_pattern,
        "Event types that it may send, whole or as payment.* for all below payment; null: all.",
        pattern=f"^{EVENT_TYPE_PATTERN}$",
        maxLength=EVENT_TYPE_CHARACTERS_MAX,
    )
    allowed_origins = _entries_field(
        read_origin,
        "Makes it a browser key: origins (https://shop.example) of the web pages that may use it; null: none.",
        maxLength=ORIGIN_CHARACTERS_MAX,
    )
    allowed_networks = _entries_field(
        lambda text: str(read_network(text)),
        "Networks in CIDR, or addresses, from which it may be used; null: from everywhere.",
        pattern=_NETWORK_PATTERN,
    )


def _in_response(name: str, field: fields.Field[Any]) -> fields.Field[Any]:
    """A member of a response for one of KeyPolicySchema: always there, and without the bounds of a request."""
    arguments: dict[str, Any] = {
        "attribute": f"policy.{name}",
        "required": True,
        "allow_none": True,
        "metadata": {"description": field.metadata["description"]},
    }
    return fields.List(fields.String(), **arguments) if isinstance(field, fields.List) else fields.Integer(**arguments)


class KeyCreateSchema(KeyPolicySchema, RequestSchema):
    label = label_field()
    expires_at = expiry_field()

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> NewKey:
        chosen = {name: data.pop(name) for name in ("label", "expires_at") if name in data}
        new = NewKey(**chosen, policy=KeyPolicy(**data))
        if new.policy.lacks_event_types:
            raise ValidationError(NO_EVENT_TYPES, "allowed_event_types")
        return new


KeyChangeSchema = change_schema(KeyCreateSchema)


class RotationSchema(RequestSchema):
    grace_seconds = fields.Integer(
        strict=True,
        validate=validate.Range(0, GRACE_SECONDS_MAX),
        metadata={
            "description": "For how long the old key works beside its successor, never beyond its own expires_at;"
            f" {GRACE_SECONDS_DEFAULT}, if absent.",
        },
    )
    expires_at = expiry_field("The successor's; absent: the old key's. In the future; null: never.")

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> Rotation:
        chosen = {"grace_seconds": data.pop("grace_seconds")} if "grace_seconds" in data else {}
        return Rotation(**chosen, successor=Change(data))


class KeyQuerySchema(RequestSchema):
    makes = KeyFilter
    project_id = id_field()
    source_id = id_field()
    state = choice_field(CredentialState)
    never_used = flag_field("true: keys that have never brought an event; false: those that have.")
    unused_for_days = DigitsField(DAYS_MAX, "Not used for this long; one that was never used, not since it was issued.")
    expires_within_days = expires_within_field()


class AddressSchema(OutputSchema):
    address = fields.String(required=True)
    last_seen_at = moment_field()


class KeySchema(ObjectSchema):
    class Meta(ObjectSchema.Meta):
        include: ClassVar[dict[str, Any]] = {
            name: _in_response(name, field) for name, field in KeyPolicySchema().fields.items()
        }

    source_id = fields.String(required=True)
    label = fields.String(required=True)
    state = choice_field(CredentialState, required=True)
    expires_at = moment_field(may_be_null=True)
    replaces = fields.String(
        required=True, allow_none=True, metadata={"description": "The key that it was rotated from."}
    )
    replaced_by = fields.String(required=True, allow_none=True, metadata={"description": "Its successor."})
    revoked_at = moment_field(may_be_null=True)
    first_used_at = moment_field(may_be_null=True)
    last_used_at = moment_field(may_be_null=True)
    last_addresses = fields.List(
        fields.Nested(AddressSchema), required=True, metadata={"description": "Where it was used from last."}
    )


class IssuedKeySchema(KeySchema):
    key = fields.String(required=True, metadata={"description": "For X-API-Key. Shown this once: keep it safe."})


KeyPageSchema = page_schema("KeyPage", KeySchema)
