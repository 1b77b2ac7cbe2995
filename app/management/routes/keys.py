"""/v1/sources/{id}/keys and /v1/keys."""

from typing import Any

from marshmallow import fields, post_load

from app.context import context
from app.errors import Conflict, PreconditionFailed
from app.management import keys
from app.management.keys import IssuedKey, KeyChange, KeyFacts, NewKey
from app.management.operators import Operator
from app.management.pages import Page, PageRequest
from app.management.routes.answers import Headers, created, shown
from app.management.routes.blueprint import ManagementBlueprint
from app.management.routes.openapi import CREATED, SHOWN
from app.management.routes.reading import target
from app.management.routes.shapes import (
    ObjectSchema,
    PageQuerySchema,
    RequestSchema,
    expiry_field,
    label_field,
    moment_field,
    page_schema,
    rate_field,
)

blueprint = ManagementBlueprint("keys", __name__, description="Credentials of sources")


class NewKeySchema(RequestSchema):
    """The body that issues a key."""

    label = label_field()
    expires_at = expiry_field()
    events_per_second = rate_field()

    @post_load
    def _new(self, data: dict[str, Any], **_: Any) -> NewKey:
        return NewKey(**data)


class KeyChangeSchema(RequestSchema):
    """The body that changes one: what is absent stays."""

    label = label_field()
    expires_at = expiry_field()
    events_per_second = rate_field()

    @post_load
    def _change(self, data: dict[str, Any], **_: Any) -> KeyChange:
        return KeyChange(**data)


class KeySchema(ObjectSchema):
    """A key, without its secret."""

    source_id = fields.String(required=True)
    label = fields.String(required=True)
    expires_at = moment_field(may_be_null=True)
    events_per_second = fields.Integer(
        required=True, allow_none=True, metadata={"description": "null: the installation's default."}
    )
    revoked_at = moment_field(may_be_null=True)
    last_used_at = moment_field(may_be_null=True)


class IssuedKeySchema(KeySchema):
    """A key in the one answer that carries it whole."""

    key = fields.String(required=True, metadata={"description": "For X-API-Key. Shown this once: keep it safe."})


@blueprint.operation("POST", "/v1/sources/<source_id>/keys")
@blueprint.arguments(
    NewKeySchema, required=False, example={"label": "checkout-1", "expires_at": "2030-01-31T12:00:00Z"}
)
@blueprint.response(201, IssuedKeySchema, headers=CREATED)
def issue_key(operator: Operator, new: NewKey, source_id: str) -> tuple[IssuedKey, Headers]:
    """Issue a key for a source. This answer alone shows it."""
    house = context()
    key = keys.issue_key(house.database, house.credentials, operator, source_id, new)
    return created(key, ".read_key", key_id=key.id)


@blueprint.operation("GET", "/v1/sources/<source_id>/keys")
@blueprint.arguments(PageQuerySchema, location="query")
@blueprint.response(200, page_schema("KeyPage", KeySchema))
def list_keys(operator: Operator, page: PageRequest, source_id: str) -> Page[KeyFacts]:
    """List a source's keys, newest first, revoked and expired ones included."""
    return keys.list_keys(context().database, operator, source_id, page)


@blueprint.operation("GET", "/v1/keys/<key_id>")
@blueprint.response(200, KeySchema, headers=SHOWN)
def read_key(operator: Operator, key_id: str) -> tuple[KeyFacts, Headers]:
    """Read a key."""
    return shown(keys.read_key(context().database, operator, key_id))


@blueprint.operation("PATCH", "/v1/keys/<key_id>", refuses=[Conflict, PreconditionFailed])
@blueprint.arguments(KeyChangeSchema, example={"label": "checkout-1, until spring"})
@blueprint.response(200, KeySchema, headers=SHOWN)
def update_key(operator: Operator, change: KeyChange, key_id: str) -> tuple[KeyFacts, Headers]:
    """Change a key's label, its rate limit or the moment at which it expires."""
    return shown(keys.change_key(context().database, operator, target(key_id), change))


@blueprint.operation("POST", "/v1/keys/<key_id>/revoke", refuses=[PreconditionFailed])
@blueprint.response(200, KeySchema, headers=SHOWN)
def revoke_key(operator: Operator, key_id: str) -> tuple[KeyFacts, Headers]:
    """Revoke a key for good: once this is answered, it never stores an event again. Safe to repeat."""
    return shown(keys.revoke_key(context().database, operator, target(key_id)))
