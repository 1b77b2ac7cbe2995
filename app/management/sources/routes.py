"""/v1/environments/{id}/sources and /v1/sources."""

from typing import Any, Final

from flask import Response
from marshmallow import fields, post_dump, post_load, validate

from app.context import current_context, urgent_database
from app.errors import Conflict, CredentialAlreadyShown, PreconditionFailed, PreconditionRequired
from app.management.common.blueprint import ManagementBlueprint
from app.management.common.openapi import CREATED, SHOWN
from app.management.common.operators import Operator, Role
from app.management.common.paging import Page, PageRequest
from app.management.common.parsing import stated_target, target
from app.management.common.responses import Headers, created, gone, shown
from app.management.common.schemas import (
    ObjectSchema,
    PageQuerySchema,
    RequestSchema,
    archived_field,
    choice_field,
    description_field,
    id_field,
    moment_field,
    name_field,
    page_schema,
)
from app.management.keys.domain import NewKey
from app.management.keys.schemas import IssuedKeySchema, KeyCreateSchema
from app.management.sources import creation as new_sources
from app.management.sources import domain as sources
from app.management.sources.creation import CreatedSource
from app.management.sources.domain import NewSource, SourceChange, SourceFilter, SourceStatus, SourceView
from app.models import SourceType, TimestampPolicy
from app.models.source import AHEAD_SECONDS_MAX, BEHIND_SECONDS_MAX

_SECONDS_MAX: Final = 3650 * 86_400


def _bound_field(side: str, default: int) -> fields.Integer:
    said = f"Further {side} our clock than so many seconds a `timestamp` is far. Default: {default}."
    return fields.Integer(strict=True, validate=validate.Range(1, _SECONDS_MAX), metadata={"description": said})


class _TimestampSchema(RequestSchema):
    """How far an event's timestamp may be from its receipt."""

    timestamp_policy = choice_field(
        TimestampPolicy,
        metadata={
            "description": "What becomes of an event whose `timestamp` is far from its receipt: stored (`accept`),"
            " stored with a mark (`mark`, the default), or refused with 422 `timestamp_out_of_range` (`refuse`)."
        },
    )
    timestamp_ahead_seconds_max = _bound_field("ahead of", AHEAD_SECONDS_MAX)
    timestamp_behind_seconds_max = _bound_field("behind", BEHIND_SECONDS_MAX)


blueprint = ManagementBlueprint("sources", __name__, description="Known producers of events")


class SourceCreateSchema(_TimestampSchema):
    """The body that creates a source."""

    name = name_field(required=True)
    type = choice_field(SourceType, required=True)
    description = description_field()
    key = fields.Nested(
        KeyCreateSchema, allow_none=True, metadata={"description": "Issues a first key with it; null: none."}
    )

    @post_load
    def _new(self, data: dict[str, Any], **_: Any) -> tuple[NewSource, NewKey | None]:
        key = data.pop("key", None)
        return NewSource(**data), key


class SourceChangeSchema(_TimestampSchema):
    """The body that changes one: what is absent stays."""

    name = name_field(required=False)
    type = choice_field(SourceType)
    description = description_field()

    @post_load
    def _change(self, data: dict[str, Any], **_: Any) -> SourceChange:
        return SourceChange(**data)


class SourceQuerySchema(RequestSchema):
    """Which sources a list shows."""

    project_id = id_field()
    environment_id = id_field()
    type = choice_field(SourceType)
    status = choice_field(SourceStatus)
    archived = archived_field()

    @post_load
    def _filter(self, data: dict[str, Any], **_: Any) -> SourceFilter:
        return SourceFilter(**data)


class SourceSchema(ObjectSchema):
    """A source."""

    project_id = fields.String(required=True)
    environment_id = fields.String(required=True)
    name = fields.String(required=True)
    type = choice_field(SourceType, required=True)
    description = fields.String(required=True)
    timestamp_policy = choice_field(TimestampPolicy, required=True)
    timestamp_ahead_seconds_max = fields.Integer(required=True)
    timestamp_behind_seconds_max = fields.Integer(required=True)
    status = choice_field(SourceStatus, required=True)
    last_event_at = moment_field(may_be_null=True)
    archived_at = moment_field(may_be_null=True)


class CreatedSourceSchema(SourceSchema):
    """A source in the answer that creates it."""

    key = fields.Nested(IssuedKeySchema, metadata={"description": "Shown this once; absent if none was issued."})

    @post_dump
    def _leave_out(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        # A retry with the same Idempotency-Key is shown the source alone, and has to look alike.
        return data if data["key"] is not None else {name: value for name, value in data.items() if name != "key"}


SourcePageSchema = page_schema("SourcePage", SourceSchema)


@blueprint.operation(
    "POST",
    "/v1/environments/<environment_id>/sources",
    role=Role.DEVELOPER,
    refuses=[Conflict, CredentialAlreadyShown],
    shown_by="read_source",
)
@blueprint.arguments(
    SourceCreateSchema, example={"name": "Checkout", "type": "backend", "key": {"label": "checkout-1"}}
)
@blueprint.response(201, CreatedSourceSchema, headers=CREATED)
def create_source(
    operator: Operator, new: tuple[NewSource, NewKey | None], environment_id: str
) -> tuple[CreatedSource, Headers]:
    """Create a source in an environment, and a first key for it if `key` is there. It is enabled."""
    context = current_context()
    source = new_sources.create_source(context.management.database, context.credentials, operator, environment_id, *new)
    return created(source, ".read_source", source_id=source.id)


@blueprint.operation("GET", "/v1/environments/<environment_id>/sources", role=Role.AUDITOR)
@blueprint.arguments(PageQuerySchema, location="query")
@blueprint.response(200, SourcePageSchema)
def list_sources_of_environment(operator: Operator, page: PageRequest, environment_id: str) -> Page[SourceView]:
    """List an environment's sources, newest first."""
    return sources.list_sources_of_environment(current_context().management.database, operator, environment_id, page)


@blueprint.operation("GET", "/v1/sources", role=Role.AUDITOR)
@blueprint.arguments(PageQuerySchema, location="query")
@blueprint.arguments(SourceQuerySchema, location="query")
@blueprint.response(200, SourcePageSchema)
def list_sources(operator: Operator, page: PageRequest, only: SourceFilter) -> Page[SourceView]:
    """List the workspace's sources, newest first."""
    return sources.list_sources(current_context().management.database, operator, only, page)


@blueprint.operation("GET", "/v1/sources/<source_id>", role=Role.AUDITOR)
@blueprint.response(200, SourceSchema, headers=SHOWN)
def read_source(operator: Operator, source_id: str) -> tuple[SourceView, Headers]:
    """Read a source."""
    return shown(sources.read_source(current_context().management.database, operator, source_id))


@blueprint.operation(
    "PATCH",
    "/v1/sources/<source_id>",
    role=Role.DEVELOPER,
    refuses=[PreconditionRequired, Conflict, PreconditionFailed],
)
@blueprint.arguments(SourceChangeSchema, example={"name": "Checkout and returns"})
@blueprint.response(200, SourceSchema, headers=SHOWN)
def update_source(operator: Operator, change: SourceChange, source_id: str) -> tuple[SourceView, Headers]:
    """Change what a source is called, and what it makes of timestamps that are far from their receipt."""
    return shown(
        sources.change_source(current_context().management.database, operator, stated_target(source_id), change)
    )


@blueprint.operation("DELETE", "/v1/sources/<source_id>", role=Role.DEVELOPER, refuses=[PreconditionFailed])
@blueprint.response(204)
def archive_source(operator: Operator, source_id: str) -> Response:
    """Archive a source. Its keys go with it and can send no more events. Its events stay."""
    sources.archive_source(current_context().management.database, operator, target(source_id))
    return gone()


@blueprint.operation(
    "POST", "/v1/sources/<source_id>/enable", role=Role.DEVELOPER, refuses=[PreconditionFailed], shown_by="read_source"
)
@blueprint.response(200, SourceSchema, headers=SHOWN)
def enable_source(operator: Operator, source_id: str) -> tuple[SourceView, Headers]:
    """Let a source's keys send events again. Safe to repeat."""
    return shown(sources.enable_source(current_context().management.database, operator, target(source_id)))


@blueprint.operation(
    "POST",
    "/v1/sources/<source_id>/disable",
    role=Role.DEVELOPER,
    refuses=[PreconditionFailed],
    is_urgent=True,
    shown_by="read_source",
)
@blueprint.response(200, SourceSchema, headers=SHOWN)
def disable_source(operator: Operator, source_id: str) -> tuple[SourceView, Headers]:
    """Stop a source: once this is answered, none of its keys stores an event. Safe to repeat."""
    return shown(sources.disable_source(urgent_database(operator.token_public_id), operator, target(source_id)))


@blueprint.operation(
    "POST",
    "/v1/sources/<source_id>/restore",
    role=Role.DEVELOPER,
    refuses=[Conflict, PreconditionFailed],
    shown_by="read_source",
)
@blueprint.response(200, SourceSchema, headers=SHOWN)
def restore_source(operator: Operator, source_id: str) -> tuple[SourceView, Headers]:
    """Take an archived source back into use. Safe to repeat.

    It comes back, but no key: those that were live are revoked.
    """
    return shown(sources.restore_source(current_context().management.database, operator, target(source_id)))
