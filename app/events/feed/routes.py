"""/v1/events/feed: the next events of a project."""

import structlog
from flask import Response, g, request

from app.context import reading_database
from app.errors import Conflict, NotFound, QueryTooBroad
from app.events.answers import respond
from app.events.blueprint import ReadingBlueprint
from app.events.feed import schemas
from app.events.feed.domain import Page
from app.events.feed.followers import FOLLOWERS
from app.events.feed.following import Following
from app.events.feed.known_followers import PATH, Follower, read_asked
from app.events.feed.shared_answers import ROLE
from app.management.common.operators import Operator
from app.web.request_log import remote_address, request_id

blueprint = ReadingBlueprint("feed", __name__, description="Follow what is stored, in one order")


@blueprint.operation("GET", PATH, role=ROLE, refuses=(NotFound, QueryTooBroad, Conflict))
@blueprint.arguments(schemas.FeedQuerySchema, location="query")
@blueprint.response(200, schemas.EventFeedSchema)
def read_feed(operator: Operator, asked: schemas.FeedRequest) -> Response:
    """Read the next events of a project that a query admits.

    In one order, each event once. `next_cursor` is always there: ask with it again, and with `wait` the answer comes
    as soon as there is something new. A page may be empty or short, and more may follow it nevertheless.
    """
    environ, feed, cursors = request.environ, asked.feed, asked.cursors_of(operator)
    following = Following.of(environ, lambda: asked.place(cursors), asked.wait)
    page = feed.page(reading_database(), operator, following.after, asked.limit)
    next_cursor = cursors.write(page.reached)
    follower = _follower(asked, page)
    if following.hold(environ, operator.workspace_id, page, request_id(), follower):
        structlog.contextvars.bind_contextvars(outcome="feed_waits")  # the line of a call that is not the last one
    elif follower is not None and page.is_last and FOLLOWERS in environ:
        environ[FOLLOWERS].known.keep(follower.behind(page.reached), next_cursor)
    return respond({"data": page.data, "next_cursor": next_cursor})


def _follower(asked: schemas.FeedRequest, page: Page) -> Follower | None:
    """The caller, if more than the application can answer requests like this one."""
    common = read_asked(request.environ)
    return common and Follower(
        identity=g.identity,
        feed=asked.feed,
        project_row=page.project_row,
        after=page.reached,
        limit=asked.limit,
        selection=common.selection,
        request_id=request_id(),
        address=remote_address(),
    )
