"""The queries for events, and the bodies of responses that show them."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final

from marshmallow import ValidationError, fields, post_load, validate

from app.context import current_context
from app.events.export import ExportRequest, Format
from app.events.ranges import Bound
from app.events.search import SearchRequest
from app.management.common.schemas import (
    DigitsField,
    MomentWithOffset,
    RequestSchema,
    choice_field,
    id_field,
    moment_field,
)
from app.web.schema_fields import OutputSchema, TextField

SEARCH_EXAMPLE: Final = {
    "project_id": "prj_9fKx2LmQ",
    "q": "type:payment.* severity>=error payload.amount>100",
    "from": "-7d",
    "limit": 20,
}
EXPORT_EXAMPLE: Final = (
    '{"id": "evu_0HmRq7Jc9vXw2LdKz5TnB8sYfGa3PeUo1", "event_id": "evt_demo_001", "event_type": "payment.failed",'
    ' "source_id": "src_demo", "environment": "production", "severity": "error", "timestamp": "2026-06-01T10:00:00Z",'
    ' "received_at": "2026-06-01T10:00:00.123456Z", "project_id": "prj_9fKx2LmQ", "environment_id": "env_9fKx2LmQ",'
    ' "key_id": "key_9fKx2LmQ", "payload": {"amount": 49.99}}\n{"complete": true, "events": 1}\n'
)
CSV: Final = {
    "schema": {"type": "string", "format": "binary", "description": "A head and a row for each event"},
    "example": "id,event_id,payload\r\nevu_0HmRq7Jc9vXw2LdKz5TnB8sYfGa3PeUo1,evt_demo_001,{}\r\n",
}
LIMIT_MAX: Final = 500
LIMIT_DEFAULT: Final = 50
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGO: Final = re.compile(r"-([0-9]{1,6})([smhdw])")
# A year before and after them can be reckoned with.
_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9998, 1, 1, tzinfo=UTC)

EXAMPLE_ID: Final = "evu_0000BpkhdbNwQqK1mzYxTfLr2JsVdHcEgWa8"
_SEVERITY: Final = {"example": "critical"}


class EventSchema(OutputSchema):
    """An event as it was sent, and where and when it was received."""

    id = fields.String(required=True, metadata={"description": "Ours.", "example": EXAMPLE_ID})
    event_id = fields.String(
        required=True, metadata={"description": "The producer's, unique in its source.", "example": "evt_demo_001"}
    )
    event_type = fields.String(required=True, metadata={"example": "payment.failed"})
    source_id = fields.String(required=True)
    environment = fields.String(required=True, metadata={"example": "production"})
    severity = fields.String(required=True, metadata=_SEVERITY)
    timestamp = moment_field()
    received_at = moment_field()
    project_id = fields.String(required=True)
    environment_id = fields.String(required=True)
    key_id = fields.String(required=True)
    payload = fields.Dict(
        keys=fields.String(),
        required=True,
        metadata={
            "description": "As it was sent; numbers have every digit.",
            "additionalProperties": True,
            "example": {"amount": 49.99, "currency": "EUR", "reason": "card_declined"},
        },
    )


class OriginSchema(OutputSchema):
    """Where a replayed event comes from."""

    replay_id = fields.String(required=True)
    event_id = fields.String(required=True, metadata={"description": "Our id of the original.", "example": EXAMPLE_ID})


class OneEventSchema(EventSchema):
    """An event that was asked for by itself."""

    origin = fields.Nested(
        OriginSchema,
        required=True,
        allow_none=True,
        metadata={"description": "null: no replay has stored it.", "example": None},
    )


class BoundField(MomentWithOffset):
    """A moment, or how long ago: `-15m`, `-24h`, `-7d`."""

    def __init__(self, description: str) -> None:
        described = f"RFC 3339 with its offset (in a URL + is %2B), or how long ago: -15m, -24h, -7d. {description}"
        super().__init__(metadata={"description": described, "format": "moment-or-ago", "example": "-24h"})

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Bound:  # type: ignore[override]
        if isinstance(value, str) and (ago := _AGO.fullmatch(value)):
            return timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        moment: datetime = super()._deserialize(value, attr, data, **kwargs)
        if not _EARLIEST <= moment < _LATEST:
            raise ValidationError("Must be from the year 1970 on, and before the year 9998.")
        return moment


def query_field(**arguments: Any) -> TextField:
    described = {
        "description": "What to look for (docs/reading.md). Default: everything.",
        "maxLength": 2_000,
        "example": "type:payment.* severity>=error",
    }
    return TextField(metadata=described, **arguments)


class QuerySchema(RequestSchema):
    """What all queries for events of a project take."""

    class Meta(RequestSchema.Meta):
        include: ClassVar[dict[str, Any]] = {
            "from": BoundField("The first moment of receipt that is meant. Default: 24 hours before `to`."),
            "to": BoundField("The first moment that is not meant any more. Default: now."),
        }

    project_id = id_field("an unknown one answers 404")
    q = query_field()

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """Every query is one of a project."""
        super().on_bind_field(field_name, field_obj)
        if field_name == "project_id":
            field_obj.required = True


class _SearchSchema(QuerySchema):
    cursor = fields.String(
        metadata={
            "pattern": "^[0-9A-Za-z_.-]{1,400}$",
            "description": "The next_cursor of the page before, with the same query.",
        }
    )

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> SearchRequest:
        begin, end = data.pop("from", None), data.pop("to", None)
        asked: dict[str, Any] = {"q": "", "limit": LIMIT_DEFAULT} | data
        return SearchRequest(begin=begin, end=end, secret_keys=current_context().settings.secret_key, **asked)


class SearchQuerySchema(_SearchSchema):
    limit = DigitsField(LIMIT_MAX, "How many events a page has at most.", load_default=LIMIT_DEFAULT)


class SearchBodySchema(_SearchSchema):
    # No default in the document: generators make a member required that has one.
    limit = fields.Integer(
        strict=True,
        validate=validate.Range(1, LIMIT_MAX),
        metadata={"description": f"How many events a page has at most. Default: {LIMIT_DEFAULT}."},
    )


class ExportQuerySchema(QuerySchema):
    format = choice_field(Format, load_default=Format.NDJSON)
    after = id_field("the last one that was received of an export that broke off: it goes on behind it")

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> tuple[ExportRequest, Format]:
        begin, end, form = data.pop("from", None), data.pop("to", None), data.pop("format")
        return ExportRequest(begin=begin, end=end, **data), form


class ReadQuerySchema(OutputSchema):
    """How a query was understood."""

    class Meta(OutputSchema.Meta):
        include: ClassVar[dict[str, Any]] = {"from": moment_field(), "to": moment_field()}

    normalized = fields.String(required=True, metadata={"example": "type:payment.* severity>=error"})


class EventSearchSchema(OutputSchema):
    data = fields.List(fields.Nested(EventSchema), required=True)
    next_cursor = fields.String(
        required=True, allow_none=True, metadata={"description": "Asks for the next page; null at the end."}
    )
    query = fields.Nested(ReadQuerySchema, required=True)
    searched_from = moment_field(may_be_null=True)
