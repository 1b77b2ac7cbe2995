"""/v1/consumers."""

from dataclasses import replace
from typing import Any, Final

import structlog
from flask import Response, request

from app.context import current_context, management_database, reading_database
from app.errors import Conflict, PreconditionFailed, QueryTooBroad
from app.events.answers import respond
from app.events.blueprint import ReadingBlueprint
from app.events.consumers import domain as consumers
from app.events.consumers import positions, schemas
from app.events.consumers.domain import ConsumerFilter, ConsumerView, NewConsumer
from app.events.consumers.lag import ConsumerState, read_state
from app.events.consumers.reading import ConsumerReader
from app.events.feed.following import Following
from app.management.common.operators import Operator, Role
from app.management.common.paging import Page, PageRequest
from app.management.common.parsing import target
from app.management.common.responses import Headers, created, gone, shown
from app.management.common.schemas import PageQuerySchema
from app.web.request_log import request_id

blueprint = ReadingBlueprint("consumers", __name__, description="Follow a feed from a place that the server keeps")

_SEEK_NUMBER: Final = "lariba.consumer_seek_number"
"""In an environ: how often the consumer had been moved by a seek when the request first came."""
_QUERY: Final = {"project_id": "prj_9fKx2LmQ", "q": "type:payment.* severity>=error", "start": "now"}
_CURSOR: Final = "WzEyMywiZmZmZiJd.Kd2vUFQ"


@blueprint.operation("PUT", "/v1/consumers/<name>", role=Role.DEVELOPER, refuses=[Conflict])
@blueprint.arguments(schemas.ConsumerCreateSchema, example=_QUERY)
@blueprint.response(201, schemas.ConsumerSchema)
@blueprint.response(200, schemas.ConsumerSchema)
def put_consumer(operator: Operator, new: NewConsumer, name: str) -> tuple[Any, ...]:
    """Make a consumer of a project's events, or find it made.

    201 if it is new. 200 if it is there with the same project and query: nothing changes, its position stays, so a
    service can do this whenever it starts. With another project or query it is a 409.
    """
    databases, secret_keys = (management_database(), reading_database()), current_context().settings.secret_key
    view, is_new = consumers.put_consumer(*databases, secret_keys, operator, name, new)
    if not is_new:
        return shown(view)
    body, headers = created(view, ".read_consumer", name=name)
    return body, 201, headers


@blueprint.operation("GET", "/v1/consumers", role=Role.AUDITOR)
@blueprint.arguments(PageQuerySchema, location="query")
@blueprint.arguments(schemas.ConsumerQuerySchema, location="query")
@blueprint.response(200, schemas.ConsumerPageSchema)
def list_consumers(operator: Operator, page: PageRequest, only: ConsumerFilter) -> Page[ConsumerView]:
    """List the workspace's consumers, newest first.

    Without their lag, which is counted for each: read one for it.
    """
    return consumers.list_consumers(management_database(), operator, only, page)


@blueprint.operation("GET", "/v1/consumers/<name>", role=Role.AUDITOR)
@blueprint.response(200, schemas.MeasuredConsumerSchema)
def read_consumer(operator: Operator, name: str) -> tuple[ConsumerState, Headers]:
    """Read a consumer, and how far it is behind."""
    return shown(read_state(management_database(), reading_database(), operator, name))


@blueprint.operation("DELETE", "/v1/consumers/<name>", role=Role.DEVELOPER, refuses=[PreconditionFailed])
@blueprint.response(204)
def delete_consumer(operator: Operator, name: str) -> Response:
    """Delete a consumer.

    Its name is free again, and its cursors are refused, also by a later consumer of the same name.
    """
    consumers.delete_consumer(management_database(), operator, target(name))
    return gone()


@blueprint.operation("GET", "/v1/consumers/<name>/events", role=Role.AUDITOR, refuses=[Conflict, QueryTooBroad])
@blueprint.arguments(schemas.EventsQuerySchema, location="query")
@blueprint.response(200, schemas.ConsumerEventsSchema)
def read_consumer_events(operator: Operator, asked: schemas.EventsRequest, name: str) -> Response:
    """Read the next events that a consumer has not committed.

    It changes nothing: until `next_cursor` is committed, the same events come again. With `wait` the answer comes as
    soon as there is something new. A page may be empty or short, and more may follow it nevertheless.
    """
    database, secret_keys = reading_database(), current_context().settings.secret_key
    reader = ConsumerReader.of(database, secret_keys, operator, name, asked.cursor)
    following = Following.of(request.environ, lambda: reader.begin.place, asked.wait)
    if request.environ.setdefault(_SEEK_NUMBER, reader.begin.seek_number) != reader.begin.seek_number:
        # A seek has moved the consumer while this request waited.
        request.environ[_SEEK_NUMBER] = reader.begin.seek_number
        following = replace(following, after=reader.begin.place)
    page = reader.feed.page(database, operator, following.after, asked.limit)
    if following.hold(request.environ, operator.workspace_id, page, request_id()):
        structlog.contextvars.bind_contextvars(outcome="feed_waits")  # the line of a call that is not the last one
    return respond({"data": page.data, "next_cursor": reader.next_cursor(page)})


@blueprint.operation(
    "POST", "/v1/consumers/<name>/commit", role=Role.DEVELOPER, refuses=[Conflict], shown_by="read_consumer"
)
@blueprint.arguments(schemas.CommitSchema, example={"cursor": _CURSOR})
@blueprint.response(200, schemas.ConsumerSchema)
def commit_consumer(operator: Operator, commit: dict[str, str], name: str) -> tuple[ConsumerView, Headers]:
    """Commit what a consumer has read up to a cursor.

    Forward only: a commit that comes late or twice changes nothing, and the answer shows where the consumer is. Leaves
    no audit entry. A 409 if a seek has moved the consumer since the cursor was given.
    """
    secret_keys = current_context().settings.secret_key
    return shown(positions.commit_place(management_database(), secret_keys, operator, name, commit["cursor"]))


@blueprint.operation(
    "POST", "/v1/consumers/<name>/seek", role=Role.DEVELOPER, refuses=[Conflict], shown_by="read_consumer"
)
@blueprint.arguments(schemas.SeekSchema, example={"to": "start"})
@blueprint.response(200, schemas.ConsumerSchema)
def seek_consumer(operator: Operator, seek: dict[str, str], name: str) -> tuple[ConsumerView, Headers]:
    """Move a consumer forward or back.

    Cursors that it gave before can be sought and not committed any more. The audit entry has cursors of the position
    before and after.
    """
    databases, secret_keys = (management_database(), reading_database()), current_context().settings.secret_key
    return shown(positions.seek_place(*databases, secret_keys, operator, name, seek["to"]))


@blueprint.shows_again("commit_consumer")
@blueprint.shows_again("seek_consumer")
@blueprint.response(200, schemas.ConsumerSchema)
def show_consumer(operator: Operator, name: str) -> tuple[ConsumerView, Headers]:
    """Show a consumer as a commit and a seek do."""
    return shown(consumers.read_consumer(management_database(), operator, name))
