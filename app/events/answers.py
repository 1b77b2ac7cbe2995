"""The body of a response that shows events."""

from typing import Any, Final

import msgspec
from flask import Response

from app.events.ranges import TimeRange
from app.events.view import ShownEvent

_ENCODER: Final = msgspec.json.Encoder()


class EventResponse(Response):
    """A response that knows how many events it shows."""

    events: int = 0


def respond(body: object) -> Response:
    """A JSON body that no schema serializes: payloads are text already, and stay exact. It is an event, or an object
    with lists of events among its members, or shows none.
    """
    response = EventResponse(_ENCODER.encode(body), mimetype="application/json")
    response.events = _events_in(body)
    return response


def _events_in(body: object) -> int:
    members = body.values() if isinstance(body, dict) else ((body,),)
    return sum(isinstance(each, ShownEvent) for it in members if isinstance(it, list | tuple) for each in it)


def shown_query(normalized: str, within: TimeRange) -> dict[str, Any]:
    """How a query was understood."""
    return {"normalized": normalized, "from": within.begin, "to": within.end}
