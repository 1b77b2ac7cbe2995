"""The query and the response of counts."""

from typing import Any, ClassVar

from marshmallow import fields, post_load, validate

from app.events.counts.buckets import Interval
from app.events.counts.domain import CountsRequest
from app.events.counts.groups import GROUP_BY_CHARACTERS_MAX, GROUP_BY_PATTERN, NO_GROUPS, VALUE_CHARACTERS_MAX, Kind
from app.events.schemas import QuerySchema, ReadQuerySchema
from app.management.common.schemas import choice_field, moment_field
from app.web.schema_fields import OutputSchema, TextField


class CountsQuerySchema(QuerySchema):
    interval = choice_field(
        Interval,
        metadata={
            "description": "How long a bucket is, by the clocks of `timezone`: 1mo is a month. Default: one that makes"
            " about 100 buckets at most."
        },
    )
    group_by = TextField(
        load_default=NO_GROUPS.name,
        validate=validate.Length(max=GROUP_BY_CHARACTERS_MAX),
        metadata={
            "description": "none, type, severity, source, environment, key, or a member of the payload as in `q`.",
            "pattern": GROUP_BY_PATTERN,
            "example": "type",
        },
    )
    timezone = TextField(
        load_default="UTC",
        metadata={
            "description": "The IANA name of a time zone.",
            "maxLength": 64,
            "format": "time-zone",
            "example": "Europe/Berlin",
        },
    )

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> CountsRequest:
        return CountsRequest(begin=data.pop("from", None), end=data.pop("to", None), **({"q": ""} | data))


class EventGroupSchema(OutputSchema):
    """How many events are in one group."""

    value = fields.String(
        required=True,
        allow_none=True,
        metadata={
            "description": "A public id for a source or key, a name for an environment; of the payload a value as text,"
            f" of a string the first {VALUE_CHARACTERS_MAX} characters. null for a kind without one.",
            "example": "payment.failed",
        },
    )
    kind = choice_field(
        Kind,
        required=True,
        metadata={
            "description": "string, number, boolean and null have a value. array: lists of several elements or none;"
            " object: objects; absent: events without the member; rest: all groups that are not shown by themselves."
        },
    )
    count = fields.Integer(required=True)


class EventBucketSchema(OutputSchema):
    """How many events were received in one bucket of time, in all and by group."""

    class Meta(OutputSchema.Meta):
        # `partial` is a name that marshmallow's schemas have taken.
        include: ClassVar[dict[str, Any]] = {
            "partial": fields.Boolean(
                required=True, metadata={"description": "The range begins or ends within it.", "example": False}
            )
        }

    start = moment_field()
    count = fields.Integer(required=True)
    groups = fields.List(
        fields.Nested(EventGroupSchema), required=True, metadata={"description": "Those that have events."}
    )


class EventCountsSchema(OutputSchema):
    total = fields.Integer(required=True)
    interval = choice_field(Interval, required=True)
    timezone = fields.String(required=True, metadata={"example": "UTC"})
    group_by = fields.String(required=True, metadata={"example": "type"})
    groups = fields.List(
        fields.Nested(EventGroupSchema),
        required=True,
        metadata={"description": "Of the whole range: the ten largest, those without a value, and the rest."},
    )
    buckets = fields.List(fields.Nested(EventBucketSchema), required=True)
    query = fields.Nested(ReadQuerySchema, required=True)
