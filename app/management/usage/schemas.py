"""The queries and the response of usage."""

from datetime import UTC, datetime
from typing import Any, ClassVar, Final

from marshmallow import ValidationError, fields, post_load

from app.context import current_context
from app.database.clock import read_clocks
from app.management.common.schemas import (
    MomentWithOffset,
    RequestSchema,
    choice_field,
    id_field,
    moment_field,
)
from app.management.usage.domain import Grouping, Interval, UsageQuery, aligned
from app.web.schema_fields import OutputSchema

_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC)
# 404, because an empty result would look like a count of zero.
UNKNOWN: Final = "an unknown one answers 404"


class _Bound(MomentWithOffset):
    """A moment from 1970 to 9998: a month can be added to it or subtracted."""

    def __init__(self, description: str) -> None:
        described = f"RFC 3339, with its offset (in a URL + is %2B). {description}"
        super().__init__(metadata={"format": "date-time", "description": described})

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        utc = super()._deserialize(value, attr, data, **kwargs)
        if not _EARLIEST <= utc < _LATEST:
            raise ValidationError("Must be from the year 1970 on, and before the year 9999.")
        return utc


class UsageOfOneQuerySchema(RequestSchema):
    makes: ClassVar[type[Any]] = UsageQuery

    class Meta(RequestSchema.Meta):
        include: ClassVar[dict[str, Any]] = {
            "from": _Bound("Taken back to the start of its interval. Default: 24 hours, or 30 days, before `to`."),
            "to": _Bound("Exclusive; taken on to the end of its interval. Default: now."),
        }

    interval = choice_field(Interval, load_default=Interval.HOUR)

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> Any:
        until = data.pop("to", None) or read_clocks(current_context().database).database
        begin, end = aligned(data.pop("from", None), until, data["interval"])
        return self.makes(begin=begin, end=end, **data)


class UsageQuerySchema(UsageOfOneQuerySchema):
    group_by = choice_field(Grouping, load_default=Grouping.NONE)
    project_id = id_field(UNKNOWN)
    source_id = id_field(UNKNOWN)
    key_id = id_field(UNKNOWN)


class CountsSchema(OutputSchema):
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
    start = moment_field()
    key_id = fields.String(attribute="group.key_id", metadata={"description": "If grouped by key."})
    source_id = fields.String(attribute="group.source_id", metadata={"description": "If grouped by source."})
    project_id = fields.String(attribute="group.project_id", metadata={"description": "If grouped by project."})


class UsageSchema(OutputSchema):
    class Meta(OutputSchema.Meta):
        include: ClassVar[dict[str, Any]] = {
            "from": moment_field(attribute="begin"),
            "to": moment_field(attribute="end"),
        }

    interval = choice_field(Interval, required=True)
    group_by = choice_field(Grouping, required=True)
    data = fields.List(fields.Nested(CountsOfIntervalSchema), required=True)
    total = fields.Nested(CountsSchema, required=True)
