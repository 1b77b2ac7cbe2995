"""/v1/sources/{id}/keys and /v1/keys."""

from app.context import current_context, management_database
from app.errors import Conflict, CredentialAlreadyShown, PreconditionFailed, PreconditionRequired
from app.management.common.blueprint import ManagementBlueprint
from app.management.common.mutations import Change
from app.management.common.operators import Operator, Role
from app.management.common.paging import Page, PageRequest
from app.management.common.parsing import stated_target, target
from app.management.common.responses import Headers, created, shown
from app.management.common.schemas import PageQuerySchema
from app.management.keys import domain as keys
from app.management.keys import queries, schemas
from app.management.keys.domain import IssuedKey, KeyView, NewKey, Rotation
from app.management.keys.queries import KeyFilter

blueprint = ManagementBlueprint("keys", __name__, description="Credentials of sources")


@blueprint.operation(
    "POST", "/v1/sources/<source_id>/keys", role=Role.DEVELOPER, refuses=[CredentialAlreadyShown], shown_by="read_key"
)
@blueprint.arguments(
    schemas.KeyCreateSchema, required=False, example={"label": "checkout-1", "expires_at": "2030-01-31T12:00:00Z"}
)
@blueprint.response(201, schemas.IssuedKeySchema)
def issue_key(operator: Operator, new: NewKey, source_id: str) -> tuple[IssuedKey, Headers]:
    """Issue a key for a source. This answer alone shows it."""
    credentials = current_context().credentials
    key = keys.issue_key(management_database(), credentials, operator, source_id, new)
    return created(key, ".read_key", key_id=key.id)


@blueprint.operation("GET", "/v1/sources/<source_id>/keys", role=Role.AUDITOR)
@blueprint.arguments(PageQuerySchema, location="query")
@blueprint.response(200, schemas.KeyPageSchema)
def list_keys(operator: Operator, page: PageRequest, source_id: str) -> Page[KeyView]:
    """List a source's keys, newest first, revoked and expired ones included."""
    return queries.list_keys_of_source(management_database(), operator, source_id, page)


@blueprint.operation("GET", "/v1/keys", role=Role.AUDITOR)
@blueprint.arguments(PageQuerySchema, location="query")
@blueprint.arguments(schemas.KeyQuerySchema, location="query")
@blueprint.response(200, schemas.KeyPageSchema)
def list_workspace_keys(operator: Operator, page: PageRequest, only: KeyFilter) -> Page[KeyView]:
    """List the workspace's keys, newest first; the filters find the stale ones and those that end soon."""
    return queries.list_keys(management_database(), operator, only, page)


@blueprint.operation("GET", "/v1/keys/<key_id>", role=Role.AUDITOR)
@blueprint.response(200, schemas.KeySchema)
def read_key(operator: Operator, key_id: str) -> tuple[KeyView, Headers]:
    """Read a key."""
    return shown(keys.read_key(management_database(), operator, key_id))


@blueprint.operation(
    "PATCH", "/v1/keys/<key_id>", role=Role.DEVELOPER, refuses=[PreconditionRequired, Conflict, PreconditionFailed]
)
@blueprint.arguments(schemas.KeyChangeSchema, example={"label": "checkout-1, until spring"})
@blueprint.response(200, schemas.KeySchema)
def update_key(operator: Operator, change: Change, key_id: str) -> tuple[KeyView, Headers]:
    """Change a key's label, rate limit, policies or end. Once this is answered, nothing else is stored with it."""
    return shown(keys.change_key(management_database(), operator, stated_target(key_id), change))


@blueprint.operation(
    "POST",
    "/v1/keys/<key_id>/revoke",
    role=Role.DEVELOPER,
    refuses=[PreconditionFailed],
    is_urgent=True,
    shown_by="read_key",
)
@blueprint.response(200, schemas.KeySchema)
def revoke_key(operator: Operator, key_id: str) -> tuple[KeyView, Headers]:
    """Revoke a key for good: once this is answered, it never stores an event again. Safe to repeat."""
    return shown(keys.revoke_key(management_database(), operator, target(key_id)))


@blueprint.operation(
    "POST",
    "/v1/keys/<key_id>/rotate",
    role=Role.DEVELOPER,
    refuses=[Conflict, CredentialAlreadyShown, PreconditionFailed],
    shown_by="read_key",
)
@blueprint.arguments(schemas.RotationSchema, required=False, example={"grace_seconds": 3600})
@blueprint.response(201, schemas.IssuedKeySchema)
def rotate_key(operator: Operator, rotation: Rotation, key_id: str) -> tuple[IssuedKey, Headers]:
    """Issue a key's successor, which this answer alone shows. Both work until the old key's grace is over."""
    credentials = current_context().credentials
    successor = keys.rotate_key(management_database(), credentials, operator, target(key_id), rotation)
    return created(successor, ".read_key", key_id=successor.id)
