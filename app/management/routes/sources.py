"""/v1/environments/{id}/sources and /v1/sources."""

from enum import StrEnum
from typing import Any

from flask import Response
from marshmallow import fields, post_load

from app.context import context
from app.errors import Conflict, PreconditionFailed
from app.management import sources
from app.management.operators import Operator
from app.management.pages import Page, PageRequest
from app.management.routes.answers import Headers, created, gone, shown
from app.management.routes.blueprint import ManagementBlueprint
from app.management.routes.openapi import CREATED, SHOWN
from app.management.routes.reading import target
from app.management.routes.shapes import (
    ObjectSchema,
    PageQuerySchema,
    RequestSchema,
    description_field,
    id_field,
    moment_field,
    name_field,
    page_schema,
)
from app.management.sources import NewSource, SourceChange, SourceFacts, SourceFilter, SourceStatus
from app.models import SourceType

blueprint = ManagementBlueprint("sources", __name__, description="Known producers of events")


def _choice(choices: type[StrEnum], *, required: bool = False) -> fields.Enum[StrEnum]:
    return fields.Enum(choices, by_value=fields.String, required=required)


class NewSourceSchema(RequestSchema):
    """The body that creates a source."""

    name = name_field(required=True)
    type = _choice(SourceType, required=True)
    description = description_field()

    @post_load
    def _new(self, data: dict[str, Any], **_: Any) -> NewSource:
        return NewSource(**data)


class SourceChangeSchema(RequestSchema):
    """The body that changes one: what is absent stays."""

    name = name_field(required=False)
    type = _choice(SourceType)
    description = description_field()

    @post_load
    def _change(self, data: dict[str, Any], **_: Any) -> SourceChange:
        return SourceChange(**data)


class SourceQuerySchema(RequestSchema):
    """Which sources a list shows."""

    project_id = id_field()
    environment_id = id_field()
    type = _choice(SourceType)
    status = _choice(SourceStatus)

    @post_load
    def _filter(self, data: dict[str, Any], **_: Any) -> SourceFilter:
        return SourceFilter(**data)


class SourceSchema(ObjectSchema):
    """A source."""

    project_id = fields.String(required=True)
    environment_id = fields.String(required=True)
    name = fields.String(required=True)
    type = _choice(SourceType, required=True)
    description = fields.String(required=True)
    status = _choice(SourceStatus, required=True)
    last_event_at = moment_field(may_be_null=True)


SourcePageSchema = page_schema("SourcePage", SourceSchema)


@blueprint.operation("POST", "/v1/environments/<environment_id>/sources", refuses=[Conflict])
@blueprint.arguments(NewSourceSchema, example={"name": "Checkout", "type": "backend"})
@blueprint.response(201, SourceSchema, headers=CREATED)
def create_source(operator: Operator, new: NewSource, environment_id: str) -> tuple[SourceFacts, Headers]:
    """Create a source in an environment. It is enabled, and has no key yet."""
    source = sources.create_source(context().database, operator, environment_id, new)
    return created(source, ".read_source", source_id=source.id)


@blueprint.operation("GET", "/v1/environments/<environment_id>/sources")
@blueprint.arguments(PageQuerySchema, location="query")
@blueprint.response(200, SourcePageSchema)
def list_sources_of_environment(operator: Operator, page: PageRequest, environment_id: str) -> Page[SourceFacts]:
    """List an environment's sources, newest first."""
    return sources.list_sources_of_environment(context().database, operator, environment_id, page)


@blueprint.operation("GET", "/v1/sources")
@blueprint.arguments(PageQuerySchema, location="query")
@blueprint.arguments(SourceQuerySchema, location="query")
@blueprint.response(200, SourcePageSchema)
def list_sources(operator: Operator, page: PageRequest, only: SourceFilter) -> Page[SourceFacts]:
    """List the workspace's sources, newest first."""
    return sources.list_sources(context().database, operator, only, page)


@blueprint.operation("GET", "/v1/sources/<source_id>")
@blueprint.response(200, SourceSchema, headers=SHOWN)
def read_source(operator: Operator, source_id: str) -> tuple[SourceFacts, Headers]:
    """Read a source."""
    return shown(sources.read_source(context().database, operator, source_id))


@blueprint.operation("PATCH", "/v1/sources/<source_id>", refuses=[Conflict, PreconditionFailed])
@blueprint.arguments(SourceChangeSchema, example={"name": "Checkout and returns"})
@blueprint.response(200, SourceSchema, headers=SHOWN)
def update_source(operator: Operator, change: SourceChange, source_id: str) -> tuple[SourceFacts, Headers]:
    """Change a source's name, type or description."""
    return shown(sources.change_source(context().database, operator, target(source_id), change))


@blueprint.operation("DELETE", "/v1/sources/<source_id>", refuses=[PreconditionFailed])
@blueprint.response(204)
def archive_source(operator: Operator, source_id: str) -> Response:
    """Archive a source. Its keys go with it and can send no more events. Its events stay."""
    sources.archive_source(context().database, operator, target(source_id))
    return gone()


@blueprint.operation("POST", "/v1/sources/<source_id>/enable", refuses=[PreconditionFailed])
@blueprint.response(200, SourceSchema, headers=SHOWN)
def enable_source(operator: Operator, source_id: str) -> tuple[SourceFacts, Headers]:
    """Let a source's keys send events again. Safe to repeat."""
    return shown(sources.enable_source(context().database, operator, target(source_id)))


@blueprint.operation("POST", "/v1/sources/<source_id>/disable", refuses=[PreconditionFailed])
@blueprint.response(200, SourceSchema, headers=SHOWN)
def disable_source(operator: Operator, source_id: str) -> tuple[SourceFacts, Headers]:
    """Stop a source: once this is answered, none of its keys stores an event. Safe to repeat."""
    return shown(sources.disable_source(context().database, operator, target(source_id)))
