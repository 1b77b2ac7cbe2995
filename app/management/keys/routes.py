"""/v1/sources/{id}/keys and /v1/keys."""

from typing import Any

from marshmallow import fields, post_load, validate

from app.context import current_context, urgent_database
from app.errors import Conflict, CredentialAlreadyShown, PreconditionFailed, PreconditionRequired
from app.management.common.blueprint import ManagementBlueprint
from app.management.common.lifetimes import DAYS_MAX, CredentialState
from app.management.common.openapi import CREATED, SHOWN
from app.management.common.operators import Operator, Role
from app.management.common.paging import Page, PageRequest
from app.management.common.parsing import stated_target, target
from app.management.common.responses import Headers, created, shown
from app.management.common.schemas import (
    DigitsField,
    PageQuerySchema,
    RequestSchema,
    choice_field,
    expires_within_field,
    expiry_field,
    flag_field,
    id_field,
    page_schema,
)
from app.management.keys import domain as keys
from app.management.keys import listing as key_list
from app.management.keys import rotation
from app.management.keys.domain import IssuedKey, KeyChange, KeyView, NewKey
from app.management.keys.listing import KeyFilter
from app.management.keys.rotation import GRACE_SECONDS_DEFAULT, GRACE_SECONDS_MAX, Rotation
from app.management.keys.schemas import IssuedKeySchema, KeyChangeSchema, KeyCreateSchema, KeySchema

blueprint = ManagementBlueprint("keys", __name__, description="Credentials of sources")


class RotationSchema(RequestSchema):
    """The body that rotates one."""

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
    def _rotation(self, data: dict[str, Any], **_: Any) -> Rotation:
        return Rotation(**data)


class KeyQuerySchema(RequestSchema):
    """Which keys of the workspace a list shows."""

    project_id = id_field()
    source_id = id_field()
    state = choice_field(CredentialState)
    never_used = flag_field("true: keys that have never brought an event; false: those that have.")
    unused_for_days = DigitsField(
        DAYS_MAX,
        metadata={"description": "Not used for this long; one that was never used, not since it was issued."},
    )
    expires_within_days = expires_within_field()

    @post_load
    def _filter(self, data: dict[str, Any], **_: Any) -> KeyFilter:
        return KeyFilter(**data)


KeyPageSchema = page_schema("KeyPage", KeySchema)


@blueprint.operation(
    "POST", "/v1/sources/<source_id>/keys", role=Role.DEVELOPER, refuses=[CredentialAlreadyShown], shown_by="read_key"
)
@blueprint.arguments(
    KeyCreateSchema, required=False, example={"label": "checkout-1", "expires_at": "2030-01-31T12:00:00Z"}
)
@blueprint.response(201, IssuedKeySchema, headers=CREATED)
def issue_key(operator: Operator, new: NewKey, source_id: str) -> tuple[IssuedKey, Headers]:
    """Issue a key for a source. This answer alone shows it."""
    context = current_context()
    key = keys.issue_key(context.management.database, context.credentials, operator, source_id, new)
    return created(key, ".read_key", key_id=key.id)


@blueprint.operation("GET", "/v1/sources/<source_id>/keys", role=Role.AUDITOR)
@blueprint.arguments(PageQuerySchema, location="query")
@blueprint.response(200, KeyPageSchema)
def list_keys(operator: Operator, page: PageRequest, source_id: str) -> Page[KeyView]:
    """List a source's keys, newest first, revoked and expired ones included."""
    return keys.list_keys(current_context().management.database, operator, source_id, page)


@blueprint.operation("GET", "/v1/keys", role=Role.AUDITOR)
@blueprint.arguments(PageQuerySchema, location="query")
@blueprint.arguments(KeyQuerySchema, location="query")
@blueprint.response(200, KeyPageSchema)
def list_workspace_keys(operator: Operator, page: PageRequest, only: KeyFilter) -> Page[KeyView]:
    """List the workspace's keys, newest first; the filters find the stale ones and those that end soon."""
    return key_list.list_keys(current_context().management.database, operator, only, page)


@blueprint.operation("GET", "/v1/keys/<key_id>", role=Role.AUDITOR)
@blueprint.response(200, KeySchema, headers=SHOWN)
def read_key(operator: Operator, key_id: str) -> tuple[KeyView, Headers]:
    """Read a key."""
    return shown(keys.read_key(current_context().management.database, operator, key_id))


@blueprint.operation(
    "PATCH", "/v1/keys/<key_id>", role=Role.DEVELOPER, refuses=[PreconditionRequired, Conflict, PreconditionFailed]
)
@blueprint.arguments(KeyChangeSchema, example={"label": "checkout-1, until spring"})
@blueprint.response(200, KeySchema, headers=SHOWN)
def update_key(operator: Operator, change: KeyChange, key_id: str) -> tuple[KeyView, Headers]:
    """Change a key's label, rate limit, policies or end. Once this is answered, nothing else is stored with it."""
    return shown(keys.change_key(current_context().management.database, operator, stated_target(key_id), change))


@blueprint.operation(
    "POST",
    "/v1/keys/<key_id>/revoke",
    role=Role.DEVELOPER,
    refuses=[PreconditionFailed],
    is_urgent=True,
    shown_by="read_key",
)
@blueprint.response(200, KeySchema, headers=SHOWN)
def revoke_key(operator: Operator, key_id: str) -> tuple[KeyView, Headers]:
    """Revoke a key for good: once this is answered, it never stores an event again. Safe to repeat."""
    return shown(keys.revoke_key(urgent_database(operator.token_public_id), operator, target(key_id)))


@blueprint.operation(
    "POST",
    "/v1/keys/<key_id>/rotate",
    role=Role.DEVELOPER,
    refuses=[Conflict, CredentialAlreadyShown, PreconditionFailed],
    shown_by="read_key",
)
@blueprint.arguments(RotationSchema, required=False, example={"grace_seconds": 3600})
@blueprint.response(201, IssuedKeySchema, headers=CREATED)
def rotate_key(operator: Operator, chosen: Rotation, key_id: str) -> tuple[IssuedKey, Headers]:
    """Issue a key's successor, which this answer alone shows. Both work until the old key's grace is over."""
    context = current_context()
    successor = rotation.rotate_key(context.management.database, context.credentials, operator, target(key_id), chosen)
    return created(successor, ".read_key", key_id=successor.id)
