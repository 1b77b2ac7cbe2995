"""How a source key reads and is written, alone and with the source that it is issued with."""

from collections.abc import Callable
from typing import Any

from marshmallow import ValidationError, fields, post_load, validate, validates_schema

from app.credentials.policies import (
    EVENT_TYPE_CHARACTERS_MAX,
    EVENT_TYPE_PATTERN,
    ORIGIN_CHARACTERS_MAX,
    POLICY_ENTRIES_MAX,
    read_event_type_pattern,
    read_origin,
)
from app.management.common.lifetimes import CredentialState
from app.management.common.schemas import (
    AnswerSchema,
    ObjectSchema,
    RequestSchema,
    choice_field,
    expiry_field,
    label_field,
    moment_field,
    rate_field,
    text_field,
)
from app.management.keys.domain import NO_EVENT_TYPES, KeyChange, NewKey
from app.wire.client_address import read_network

_EVENT_TYPES = "Event types that it may send, whole or as payment.* for all below payment; null: all."
_ORIGINS = "Makes it a browser key: origins (https://shop.example) of the web pages that may use it; null: none."
_NETWORKS = "Networks in CIDR, or addresses, from which it may be used; null: from everywhere."

# The longest is an IPv6 address that ends as an IPv4 one, with its prefix.
_NETWORK_PATTERN = "^[0-9A-Fa-f:.]{2,45}(/[0-9]{1,3})?$"


class _Policy(fields.List[str]):
    """Entries that a function reads; what is left of entries that read alike is the first."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        return list(dict.fromkeys(super()._deserialize(value, attr, data, **kwargs)))


def _policy_field(read: Callable[[str], str], description: str, **described: Any) -> fields.List[str]:
    return _Policy(
        text_field(read, metadata=described),
        allow_none=True,
        validate=validate.Length(1, POLICY_ENTRIES_MAX),
        metadata={"description": description},
    )


def _shown_policy_field(description: str) -> fields.List[str]:
    return fields.List(fields.String(), required=True, allow_none=True, metadata={"description": description})


class _PoliciesSchema(RequestSchema):
    """What can be chosen of a key, when it is issued and later."""

    label = label_field()
    expires_at = expiry_field()
    events_per_second = rate_field()
    allowed_event_types = _policy_field(
        read_event_type_pattern,
        _EVENT_TYPES,
        pattern=f"^{EVENT_TYPE_PATTERN}$",
        maxLength=EVENT_TYPE_CHARACTERS_MAX,
    )
    allowed_origins = _policy_field(read_origin, _ORIGINS, maxLength=ORIGIN_CHARACTERS_MAX)
    allowed_networks = _policy_field(lambda text: str(read_network(text)), _NETWORKS, pattern=_NETWORK_PATTERN)


class KeyCreateSchema(_PoliciesSchema):
    """The body that issues a key."""

    @validates_schema
    def _check(self, data: dict[str, Any], **_: Any) -> None:
        if data.get("allowed_origins") is not None and data.get("allowed_event_types") is None:
            raise ValidationError(NO_EVENT_TYPES, "allowed_event_types")

    @post_load
    def _new(self, data: dict[str, Any], **_: Any) -> NewKey:
        return NewKey(**data)


class KeyChangeSchema(_PoliciesSchema):
    """The body that changes one: what is absent stays."""

    @post_load
    def _change(self, data: dict[str, Any], **_: Any) -> KeyChange:
        return KeyChange(**data)


class AddressSchema(AnswerSchema):
    """Where a key was used from."""

    address = fields.String(required=True)
    last_seen_at = moment_field()


class KeySchema(ObjectSchema):
    """A key, without its secret."""

    source_id = fields.String(required=True)
    label = fields.String(required=True)
    state = choice_field(CredentialState, required=True)
    expires_at = moment_field(may_be_null=True)
    events_per_second = fields.Integer(
        required=True, allow_none=True, metadata={"description": "null: the workspace's default for its keys."}
    )
    allowed_event_types = _shown_policy_field(_EVENT_TYPES)
    allowed_origins = _shown_policy_field(_ORIGINS)
    allowed_networks = _shown_policy_field(_NETWORKS)
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
    """A key in the one answer that carries it whole."""

    key = fields.String(required=True, metadata={"description": "For X-API-Key. Shown this once: keep it safe."})
