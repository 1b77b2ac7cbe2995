"""/v1/usage, and the usage of one key, source or project."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

from marshmallow import ValidationError, fields, post_load

from app.context import current_context
from app.database.clock import read_clocks
from app.errors import NotFound
from app.management.common.blueprint import ManagementBlueprint
from app.management.common.operators import Operator, Role
from app.management.common.schemas import (
    AnswerSchema,
    RequestSchema,
    StatedMoment,
    choice_field,
    id_field,
    moment_field,
)
from app.management.usage import domain as usage
from app.management.usage.domain import Grouping, Interval, Usage, UsageQuery, aligned

blueprint = ManagementBlueprint("usage", __name__, description="How much was sent, and by whom")

_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC)
# A count of nothing would look like a count.
_UNKNOWN: Final = "one that nobody has answers 404"


class _Bound(StatedMoment):
    """A moment of our era, from which one can go on by a month in both directions."""

    def __init__(self, description: str) -> None:
        described = f"RFC 3339, with its offset (in a URL + is %2B). {description}"
        super().__init__(metadata={"format": "date-time", "description": described})

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        utc = super()._deserialize(value, attr, data, **kwargs)
        if not _EARLIEST <= utc < _LATEST:
            raise ValidationError("Must be from the year 1970 on, and before the year 9999.")
        return utc


class UsageOfOneQuerySchema(RequestSchema):
    """Which time an answer shows."""

    class Meta(RequestSchema.Meta):
        include: ClassVar[dict[str, Any]] = {
            "from": _Bound("Taken back to the start of its interval. Default: 24 hours, or 30 days, before `to`."),
            "to": _Bound("Exclusive; taken on to the end of its interval. Default: now."),
        }

    interval = choice_field(Interval, load_default=Interval.HOUR)

    @post_load
    def _query(self, data: dict[str, Any], **_: Any) -> UsageQuery:
        until = data.pop("to", None) or read_clocks(current_context().database).database
        begin, end = aligned(data.pop("from", None), until, data["interval"])
        return UsageQuery(begin=begin, end=end, **data)


class UsageQuerySchema(UsageOfOneQuerySchema):
    """Which usage of the workspace an answer shows."""

    group_by = choice_field(Grouping, load_default=Grouping.NONE)
    project_id = id_field(_UNKNOWN)
    source_id = id_field(_UNKNOWN)
    key_id = id_field(_UNKNOWN)


class CountsSchema(AnswerSchema):
    """How many events."""

    stored = fields.Integer(required=True)
    duplicate = fields.Integer(required=True)
    replayed = fields.Integer(required=True)
    rejected = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        required=True,
        metadata={"description": "By the code of the refusal."},
    )
    payload_bytes = fields.Integer(required=True, metadata={"description": "Of the events that were stored."})


class CountsOfIntervalSchema(CountsSchema):
    """How many of one interval."""

    start = moment_field()
    key_id = fields.String(attribute="group.key_id", metadata={"description": "If grouped by key."})
    source_id = fields.String(attribute="group.source_id", metadata={"description": "If grouped by source."})
    project_id = fields.String(attribute="group.project_id", metadata={"description": "If grouped by project."})


class UsageSchema(AnswerSchema):
    """How much was used."""

    class Meta(AnswerSchema.Meta):
        include: ClassVar[dict[str, Any]] = {
            "from": moment_field(attribute="begin"),
            "to": moment_field(attribute="end"),
        }

    interval = choice_field(Interval, required=True)
    group_by = choice_field(Grouping, required=True)
    data = fields.List(fields.Nested(CountsOfIntervalSchema), required=True)
    total = fields.Nested(CountsSchema, required=True)


@blueprint.operation("GET", "/v1/usage", role=Role.AUDITOR, refuses=[NotFound])
@blueprint.arguments(UsageQuerySchema, location="query")
@blueprint.response(200, UsageSchema)
def read_usage(operator: Operator, query: UsageQuery) -> Usage:
    """Count the workspace's events per hour or day, by key, source or project.

    Up to 2,000 counts, one per interval and group in which something happened; a question for more is refused with 422.
    """
    return usage.read_usage(current_context().management.database, operator, query)


@blueprint.operation("GET", "/v1/keys/<key_id>/usage", role=Role.AUDITOR)
@blueprint.arguments(UsageOfOneQuerySchema, location="query")
@blueprint.response(200, UsageSchema)
def read_usage_of_key(operator: Operator, query: UsageQuery, key_id: str) -> Usage:
    """Count a key's events per hour or day, also of a revoked one."""
    only = replace(query, group_by=Grouping.KEY, key_id=key_id)
    return usage.read_usage(current_context().management.database, operator, only)


@blueprint.operation("GET", "/v1/sources/<source_id>/usage", role=Role.AUDITOR)
@blueprint.arguments(UsageOfOneQuerySchema, location="query")
@blueprint.response(200, UsageSchema)
def read_usage_of_source(operator: Operator, query: UsageQuery, source_id: str) -> Usage:
    """Count a source's events per hour or day, also of an archived one."""
    only = replace(query, group_by=Grouping.SOURCE, source_id=source_id)
    return usage.read_usage(current_context().management.database, operator, only)


@blueprint.operation("GET", "/v1/projects/<project_id>/usage", role=Role.AUDITOR)
@blueprint.arguments(UsageOfOneQuerySchema, location="query")
@blueprint.response(200, UsageSchema)
def read_usage_of_project(operator: Operator, query: UsageQuery, project_id: str) -> Usage:
    """Count a project's events per hour or day, also of an archived one."""
    only = replace(query, group_by=Grouping.PROJECT, project_id=project_id)
    return usage.read_usage(current_context().management.database, operator, only)
