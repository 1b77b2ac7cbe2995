"""/v1/environments/{id}/sources and /v1/sources."""

from flask import Response

from app.context import current_context, management_database
from app.errors import Conflict, CredentialAlreadyShown, PreconditionFailed, PreconditionRequired
from app.management.common.blueprint import ManagementBlueprint
from app.management.common.mutations import Change
from app.management.common.operators import Operator, Role
from app.management.common.paging import Page, PageRequest
from app.management.common.parsing import stated_target, target
from app.management.common.responses import Headers, created, gone, shown
from app.management.common.schemas import PageQuerySchema
from app.management.keys.domain import NewKey
from app.management.sources import domain as sources
from app.management.sources import schemas
from app.management.sources.domain import CreatedSource, NewSource, SourceFilter, SourceView

blueprint = ManagementBlueprint("sources", __name__, description="Known producers of events")


@blueprint.operation(
    "POST",
    "/v1/environments/<environment_id>/sources",
    role=Role.DEVELOPER,
    refuses=[Conflict, CredentialAlreadyShown],
    shown_by="read_source",
)
@blueprint.arguments(
    schemas.SourceCreateSchema, example={"name": "Checkout", "type": "backend", "key": {"label": "checkout-1"}}
)
@blueprint.response(201, schemas.CreatedSourceSchema)
def create_source(
    operator: Operator, new: tuple[NewSource, NewKey | None], environment_id: str
) -> tuple[CreatedSource, Headers]:
    """Create a source in an environment, and a first key for it if `key` is there. It is enabled."""
    credentials = current_context().credentials
    source = sources.create_source(management_database(), credentials, operator, environment_id, *new)
    return created(source, ".read_source", source_id=source.id)


@blueprint.operation("GET", "/v1/environments/<environment_id>/sources", role=Role.AUDITOR)
@blueprint.arguments(PageQuerySchema, location="query")
@blueprint.response(200, schemas.SourcePageSchema)
def list_sources_of_environment(operator: Operator, page: PageRequest, environment_id: str) -> Page[SourceView]:
    """List an environment's sources, newest first."""
    return sources.list_sources_of_environment(management_database(), operator, environment_id, page)


@blueprint.operation("GET", "/v1/sources", role=Role.AUDITOR)
@blueprint.arguments(PageQuerySchema, location="query")
@blueprint.arguments(schemas.SourceQuerySchema, location="query")
@blueprint.response(200, schemas.SourcePageSchema)
def list_sources(operator: Operator, page: PageRequest, only: SourceFilter) -> Page[SourceView]:
    """List the workspace's sources, newest first."""
    return sources.list_sources(management_database(), operator, only, page)


@blueprint.operation("GET", "/v1/sources/<source_id>", role=Role.AUDITOR)
@blueprint.response(200, schemas.SourceSchema)
def read_source(operator: Operator, source_id: str) -> tuple[SourceView, Headers]:
    """Read a source."""
    return shown(sources.read_source(management_database(), operator, source_id))


@blueprint.operation(
    "PATCH",
    "/v1/sources/<source_id>",
    role=Role.DEVELOPER,
    refuses=[PreconditionRequired, Conflict, PreconditionFailed],
)
@blueprint.arguments(schemas.SourceChangeSchema, example={"name": "Checkout and returns"})
@blueprint.response(200, schemas.SourceSchema)
def update_source(operator: Operator, change: Change, source_id: str) -> tuple[SourceView, Headers]:
    """Change what a source is called, and what it makes of timestamps that are far from their receipt."""
    return shown(sources.change_source(management_database(), operator, stated_target(source_id), change))


@blueprint.operation("DELETE", "/v1/sources/<source_id>", role=Role.DEVELOPER, refuses=[PreconditionFailed])
@blueprint.response(204)
def archive_source(operator: Operator, source_id: str) -> Response:
    """Archive a source. Its keys go with it and can send no more events. Its events stay."""
    sources.archive_source(management_database(), operator, target(source_id))
    return gone()


@blueprint.operation(
    "POST", "/v1/sources/<source_id>/enable", role=Role.DEVELOPER, refuses=[PreconditionFailed], shown_by="read_source"
)
@blueprint.response(200, schemas.SourceSchema)
def enable_source(operator: Operator, source_id: str) -> tuple[SourceView, Headers]:
    """Let a source's keys send events again. Safe to repeat."""
    return shown(sources.enable_source(management_database(), operator, target(source_id)))


@blueprint.operation(
    "POST",
    "/v1/sources/<source_id>/disable",
    role=Role.DEVELOPER,
    refuses=[PreconditionFailed],
    is_urgent=True,
    shown_by="read_source",
)
@blueprint.response(200, schemas.SourceSchema)
def disable_source(operator: Operator, source_id: str) -> tuple[SourceView, Headers]:
    """Stop a source: once this is answered, none of its keys stores an event. Safe to repeat."""
    return shown(sources.disable_source(management_database(), operator, target(source_id)))


@blueprint.operation(
    "POST",
    "/v1/sources/<source_id>/restore",
    role=Role.DEVELOPER,
    refuses=[Conflict, PreconditionFailed],
    shown_by="read_source",
)
@blueprint.response(200, schemas.SourceSchema)
def restore_source(operator: Operator, source_id: str) -> tuple[SourceView, Headers]:
    """Take an archived source back into use. Safe to repeat.

    It comes back, but no key: those that were live are revoked.
    """
    return shown(sources.restore_source(management_database(), operator, target(source_id)))
