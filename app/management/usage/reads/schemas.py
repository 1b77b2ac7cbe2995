"""The query and the response of counts of reads."""

from typing import Any, ClassVar, Final

from marshmallow import fields

from app.management.common.schemas import choice_field, id_field, moment_field
from app.management.usage.domain import Interval
from app.management.usage.reads.domain import ReadGrouping, ReadsQuery
from app.management.usage.schemas import UNKNOWN, UsageOfOneQuerySchema
from app.web.schema_fields import OutputSchema

_REJECTED: Final = {"description": "Refused requests, by the code of the refusal.", "example": {"query_too_broad": 2}}


class ReadsQuerySchema(UsageOfOneQuerySchema):
    makes = ReadsQuery

    group_by = choice_field(ReadGrouping, load_default=ReadGrouping.NONE)
    project_id = id_field(UNKNOWN)
    token_id = id_field(UNKNOWN)


class ReadCountsSchema(OutputSchema):
    answered = fields.Integer(
        required=True, metadata={"description": "Requests that were not refused.", "example": 1204}
    )
    broken_off = fields.Integer(
        required=True,
        metadata={"description": "Of these, exports and files that ended before their last byte.", "example": 1},
    )
    rejected = fields.Dict(keys=fields.String(), values=fields.Integer(), required=True, metadata=_REJECTED)
    events = fields.Integer(
        required=True,
        metadata={
            "description": "Events that were shown. A file counts all of its own with its first byte, and none with a"
            " part that begins later.",
            "example": 60200,
        },
    )
    body_bytes = fields.Integer(
        required=True,
        metadata={
            "description": "Of the responses, before compression; of a file, which is compressed, as it is.",
            "example": 30401000,
        },
    )


class ReadCountsOfIntervalSchema(ReadCountsSchema):
    start = moment_field()
    token_id = fields.String(
        attribute="group.token_id",
        allow_none=True,
        metadata={"description": "If grouped by token; null for all tokens together that yours does not see."},
    )
    project_id = fields.String(
        attribute="group.project_id",
        allow_none=True,
        metadata={"description": "If grouped by project; null for requests of which no project is known."},
    )
    operation = fields.String(
        attribute="group.operation",
        metadata={
            "description": "If grouped by operation: its operationId in this document.",
            "example": "searchEvents",
        },
    )


class ReadingUsageSchema(OutputSchema):
    class Meta(OutputSchema.Meta):
        include: ClassVar[dict[str, Any]] = {
            "from": moment_field(attribute="begin"),
            "to": moment_field(attribute="end"),
        }

    interval = choice_field(Interval, required=True)
    group_by = choice_field(ReadGrouping, required=True)
    data = fields.List(fields.Nested(ReadCountsOfIntervalSchema), required=True)
    total = fields.Nested(ReadCountsSchema, required=True)
