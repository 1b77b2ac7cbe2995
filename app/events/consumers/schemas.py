"""The bodies and queries of consumers."""

from dataclasses import dataclass
from typing import Any, Final

from marshmallow import fields, validate

from app.events.consumers.domain import ConsumerFilter, NewConsumer
from app.events.feed.known_followers import WAIT_SECONDS_MAX
from app.events.feed.schemas import LIMIT_DEFAULT, LIMIT_MAX, EventFeedSchema, SecondsField
from app.events.schemas import query_field
from app.management.common.schemas import DigitsField, ObjectSchema, RequestSchema, id_field, moment_field, page_schema
from app.web.schema_fields import OutputSchema, TextField

_CURSOR_CHARACTERS_MAX: Final = 400
_NAME: Final = {"example": "billing"}


def _cursor_field(description: str, *, characters: str = "0-9A-Za-z_.-", **arguments: Any) -> TextField:
    pattern = f"[{characters}]{{1,{_CURSOR_CHARACTERS_MAX}}}"
    return TextField(
        validate=validate.Regexp(rf"\A{pattern}\Z", error="Not a cursor."),
        metadata={"pattern": f"^{pattern}$", "description": description},
        **arguments,
    )


def _place_field(description: str, **arguments: Any) -> TextField:
    """A cursor, a word or a moment."""
    return _cursor_field(description, characters="0-9A-Za-z_.:+-", **arguments)


class ConsumerCreateSchema(RequestSchema):
    makes = NewConsumer

    project_id = id_field("an unknown one is not found")
    project_id.required = True
    q = query_field()
    start = _place_field(
        "Where a new consumer begins: start, with the oldest event that is kept; now (the default), with what comes; a"
        " moment (RFC 3339 with its offset), with what was received from then on; or behind a next_cursor of the feed"
        " with the same project, query and token. One that is there stays where it is."
    )


class ConsumerQuerySchema(RequestSchema):
    makes = ConsumerFilter
    project_id = id_field()


class ConsumerSchema(ObjectSchema):
    name = fields.String(required=True, metadata=_NAME)
    project_id = fields.String(required=True)
    q = fields.String(
        required=True,
        metadata={"description": "The query, normalized.", "example": "type:payment.* severity>=error"},
    )
    position_at = moment_field(may_be_null=True)
    committed_at = moment_field(may_be_null=True)


class LagSchema(OutputSchema):
    """The events that the query admits and that are not committed."""

    events = fields.Integer(required=True, metadata={"description": "How many were counted.", "example": 42})
    is_more = fields.Boolean(
        required=True,
        metadata={"description": "Whether there may be more: counting has an end.", "example": False},
    )
    seconds = fields.Float(
        required=True,
        allow_none=True,
        metadata={
            "description": "How old the oldest of them is; 0: there is none; null: none was found, and there is more.",
            "example": 1.5,
        },
    )


class MeasuredConsumerSchema(ConsumerSchema):
    lag = fields.Nested(LagSchema, required=True)


ConsumerPageSchema = page_schema("ConsumerPage", ConsumerSchema)


@dataclass(frozen=True, kw_only=True, slots=True)
class EventsRequest:
    """The next events of a consumer: how many, how many seconds to wait for the first, and behind which cursor."""

    limit: int
    wait: int
    cursor: str | None = None


class EventsQuerySchema(RequestSchema):
    makes = EventsRequest

    cursor = _cursor_field(
        "A next_cursor of this consumer, to read on before its page is committed. Default: behind what is committed."
    )
    limit = DigitsField(LIMIT_MAX, "How many events a page has at most.", load_default=LIMIT_DEFAULT)
    wait = SecondsField(
        load_default=0,
        validate=validate.Range(0, WAIT_SECONDS_MAX),
        metadata={"description": "How many seconds to wait for an event if there is none yet."},
    )


class ConsumerEventsSchema(EventFeedSchema):
    """Some events in their order, and the cursor that commits them."""

    next_cursor = fields.String(
        required=True, metadata={"description": "Commits this page and all before it; also of an empty page."}
    )


class CommitSchema(RequestSchema):
    cursor = _cursor_field("The next_cursor of the last page that is worked through.", required=True)


class SeekSchema(RequestSchema):
    to = _place_field(
        "start, now, a moment (RFC 3339 with its offset), or a next_cursor of this consumer, however old.",
        required=True,
    )
