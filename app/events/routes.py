"""/v1/events and the events of one source."""

from collections.abc import Iterator
from itertools import chain
from typing import Final

import structlog
from flask import Response, request

from app.context import reading_database, reading_standby
from app.errors import NotFound, QueryTooBroad
from app.events import export, one_event, schemas, search
from app.events.answers import respond, shown_query
from app.events.blueprint import ReadingBlueprint, counted
from app.events.export import ExportRequest, Format
from app.events.search import SearchPage, SearchRequest
from app.management.common.operators import Operator, Role
from app.management.common.responses import links_of

blueprint = ReadingBlueprint("events", __name__, description="Find and follow what was stored")

_log = structlog.get_logger()

NDJSON: Final = "application/x-ndjson"


@blueprint.operation("GET", "/v1/events/<event_id>", role=Role.AUDITOR)
@blueprint.response(200, schemas.OneEventSchema)
def read_event(operator: Operator, event_id: str) -> Response:
    """Read an event by our id."""
    return respond(one_event.read_event(reading_database(), operator, event_id))


@blueprint.operation("GET", "/v1/sources/<source_id>/events/<path:event_id>", role=Role.AUDITOR)
@blueprint.response(200, schemas.OneEventSchema)
def read_event_of_source(operator: Operator, source_id: str, event_id: str) -> Response:
    """Read an event by the id that its source gave it.

    Ids are remembered for 90 days at least, or as long as the installation says.
    """
    return respond(one_event.read_event_of_source(reading_database(), operator, source_id, event_id))


@blueprint.operation("GET", "/v1/events", role=Role.AUDITOR, refuses=[NotFound, QueryTooBroad])
@blueprint.arguments(schemas.SearchQuerySchema, location="query")
@blueprint.response(200, schemas.EventSearchSchema)
def search_events(operator: Operator, query: SearchRequest) -> Response:
    """Search a project's events, newest first.

    The range is frozen in the first answer, so pages are stable while events come in. `searched_from` is not null if
    time was over before a page was full: everything received since then is looked through, and `next_cursor` goes on.
    """
    page = search.search(reading_database(), operator, query, reading_standby())
    response = _page(page)
    response.headers["Link"] = links_of(page.next_cursor)
    return response


@blueprint.operation("POST", "/v1/events/search", role=Role.AUDITOR, is_query=True, refuses=[NotFound, QueryTooBroad])
@blueprint.arguments(schemas.SearchBodySchema, example=schemas.SEARCH_EXAMPLE)
@blueprint.response(200, schemas.EventSearchSchema)
def search_events_by_body(operator: Operator, query: SearchRequest) -> Response:
    """Search a project's events with a query in the body, where an address would be too long or be logged."""
    return _page(search.search(reading_database(), operator, query, reading_standby()))


@blueprint.operation("GET", "/v1/events/export", role=Role.AUDITOR, refuses=[NotFound, QueryTooBroad])
@blueprint.arguments(schemas.ExportQuerySchema, location="query")
@blueprint.response(
    200,
    {"type": "string", "format": "binary"},
    content_type=NDJSON,
    example=schemas.EXPORT_EXAMPLE,
    description="One event a line, newest first. The last line says that the export is whole, and how many there were.",
)
@blueprint.doc(responses={200: {"content": {"text/csv": schemas.CSV}}})  # type: ignore[untyped-decorator]
def export_events(operator: Operator, query: tuple[ExportRequest, Format]) -> Response:
    """Export all events that a query finds, as NDJSON or CSV.

    With `Accept-Encoding: gzip` it is compressed. NDJSON ends with `{"complete": true, "events": 123}`; an export that
    ends otherwise has broken off: ask again with the same `from` and `to`, and with `after`, the `id` of the last event
    that was received.
    """
    asked, form = query
    chunks = export.export_events(reading_database(), operator, asked, reading_standby())
    # The first chunk is read before the response begins, so that a refusal still gets a status of its own.
    pieces = counted(export.written(chain([next(chunks, [])], chunks), form))
    response = Response(mimetype=NDJSON if form is Format.NDJSON else "text/csv")
    response.headers["Content-Disposition"] = f'attachment; filename="events.{form}"'
    response.vary.add("Accept-Encoding")
    if request.accept_encodings.best_match(("identity", "gzip")) == "gzip":
        response.headers["Content-Encoding"] = "gzip"
        pieces = export.compressed(pieces)
    response.response = _until_broken(pieces)
    return response


def _until_broken(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """A failure from here on has no status any more. Raising breaks the connection under most servers; granian ends the
    response as a complete one, which lacks its last line.
    """
    try:
        yield from pieces
    except Exception as error:
        _log.warning("event_export_broke_off", cause=type(error).__name__)
        raise


def _page(page: SearchPage) -> Response:
    body = {
        "data": page.data,
        "next_cursor": page.next_cursor,
        "query": shown_query(page.normalized, page.range),
        "searched_from": page.searched_from,
    }
    return respond(body)
