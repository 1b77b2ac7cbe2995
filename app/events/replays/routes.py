"""/v1/replays."""

from flask import Response

from app.context import current_context, management_database, reading_database
from app.errors import Conflict, NotFound, PreconditionFailed, QueryTooBroad
from app.events.answers import respond
from app.events.blueprint import ReadingBlueprint
from app.events.replays import domain as replays
from app.events.replays import schemas
from app.events.replays.domain import NewReplay, ReplayFilter
from app.events.replays.views import ReplayView
from app.management.common.operators import Operator, Role
from app.management.common.paging import Page, PageRequest
from app.management.common.parsing import target
from app.management.common.responses import Headers, created, shown
from app.management.common.schemas import PageQuerySchema

blueprint = ReadingBlueprint("replays", __name__, description="Store events again, in another source")


# Who may issue a key for the source could send all these events with it: a replay takes no more than that role.
@blueprint.operation(
    "POST",
    "/v1/replays",
    role=Role.DEVELOPER,
    refuses=[NotFound, QueryTooBroad, Conflict],
    shown_by="read_replay",
)
@blueprint.arguments(schemas.ReplayCreateSchema, example=schemas.CREATE_EXAMPLE)
@blueprint.response(201, schemas.ReplaySchema)
@blueprint.alt_response(200, schemas.ReplayDryRunSchema, "What a dry run has found")
def create_replay(operator: Operator, new: NewReplay) -> Response | tuple[ReplayView, Headers]:
    """Replay the events that a query finds into a source, as new events, oldest first.

    With `"dry_run": true` it is answered with 200 how many they are, and some of them; nothing is stored. Each new
    event has the type, severity, timestamp and payload of the original, and an event_id that names it: so it is stored
    once. A worker does it; what is wrong with single events is counted by code in `refused`.
    """
    if new.dry_run:
        found = replays.try_replay(management_database(), reading_database(), operator, new)
        body = {"dry_run": True, "count": found.count, "sample": found.sample, "query": found.query}
        return respond(body)
    credentials = current_context().credentials
    replay = replays.create_replay(management_database(), reading_database(), credentials, operator, new)
    return created(replay, ".read_replay", replay_id=replay.id)


@blueprint.operation("GET", "/v1/replays", role=Role.AUDITOR)
@blueprint.arguments(PageQuerySchema, location="query")
@blueprint.arguments(schemas.ReplayQuerySchema, location="query")
@blueprint.response(200, schemas.ReplayPageSchema)
def list_replays(operator: Operator, page: PageRequest, only: ReplayFilter) -> Page[ReplayView]:
    """List the replays whose project and source the token reaches, newest first.

    One that has ended is shown for thirty days more. The events that it has stored are found by its key and its id.
    """
    return replays.list_replays(management_database(), operator, only, page)


@blueprint.operation("GET", "/v1/replays/<replay_id>", role=Role.AUDITOR)
@blueprint.response(200, schemas.ReplaySchema)
def read_replay(operator: Operator, replay_id: str) -> tuple[ReplayView, Headers]:
    """Read a replay, and how far it has come."""
    return shown(replays.read_replay(management_database(), operator, replay_id))


@blueprint.operation(
    "POST",
    "/v1/replays/<replay_id>/cancel",
    role=Role.DEVELOPER,
    refuses=[PreconditionFailed],
    is_urgent=True,
    shown_by="read_replay",
)
@blueprint.response(200, schemas.ReplaySchema)
def cancel_replay(operator: Operator, replay_id: str) -> tuple[ReplayView, Headers]:
    """Cancel a replay: once this is answered, it stores no further event. Changes nothing of one that has ended."""
    return shown(replays.cancel_replay(management_database(), operator, target(replay_id)))
