"""Replays: asked for, tried without storing anything, shown and cancelled.

A replay reads one project and sends to one source, perhaps of another project; the caller has to reach both. It sends
with a key of its own, whose plain text is thrown away: by it its events are found, and to revoke it is to end it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from sqlalchemy import func
from sqlalchemy.orm import Session

from app.credentials.verification import Credentials, Minted
from app.database.advisory_locks import exclude_parents
from app.database.engine import Database
from app.errors import Conflict, Fault, NotFound
from app.events.names import note_project
from app.events.query.parsing import parse
from app.events.replays.finding import FoundQuery, ReplayQuery, find_query, of_query
from app.events.replays.origin import PREFIX
from app.events.replays.views import ReplayView, described, replays_within, view_of_replay
from app.events.search import SearchRequest, search
from app.events.view import ShownEvent
from app.identifiers import new_public_id
from app.management.common.etags import Target
from app.management.common.hierarchy import live_sources
from app.management.common.lookup import equal_if_given, find, find_to_change
from app.management.common.minting import mint_for
from app.management.common.mutations import insert, moment, mutation, update
from app.management.common.operators import Operator
from app.management.common.paging import Listing, Page, PageRequest
from app.management.keys.domain import NewKey, add_key
from app.models import Project, Replay, Source, SourceKey
from app.models.job import PENDING, JobState

RATE_MAX: Final = 1_000
RATE_DEFAULT: Final = 100
PENDING_MAX: Final = 5
"""Replays of a workspace that have not ended."""
SAMPLE_EVENTS: Final = 5
_TOO_MANY_PENDING: Final = f"This workspace has {PENDING_MAX} replays that have not ended: wait for one, or cancel one."
_NO_SOURCE: Final = "There is no source with this id, or it is archived."
_DISABLED: Final = "The source is disabled, so nothing can be stored in it. Enable it first."


@dataclass(frozen=True, kw_only=True, slots=True)
class NewReplay:
    query: ReplayQuery
    target_source_id: str
    rate: int = RATE_DEFAULT
    """Events a second."""
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class DryRun:
    """What a replay would do."""

    count: int | None
    """None: too many events would have to be read to count them."""
    sample: Sequence[ShownEvent]
    """Some of the newest."""
    query: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayFilter:
    """Which replays a list shows; None shows all."""

    project_id: str | None = None
    source_id: str | None = None
    state: JobState | None = None


def try_replay(database: Database, reading_database: Database, operator: Operator, new: NewReplay) -> DryRun:
    """What `new` would replay; nothing is stored. Raises what create_replay() raises, but for too many of them."""
    with database.transaction(operator.workspace_id) as session:
        _find_target(session, operator, new)
    found = find_query(reading_database, operator, new.query)
    sample: Sequence[ShownEvent] = ()
    if found.range.begin < found.range.end:
        asked = SearchRequest(
            project_id=new.query.project_id,
            q=new.query.q,
            begin=found.range.begin,
            end=found.range.end,
            limit=SAMPLE_EVENTS,
            secret_keys=("unused",),  # its cursor is dropped
        )
        sample = search(reading_database, operator, asked).data
    return DryRun(count=found.count, sample=sample, query=described(found.normalized, found.range))


def create_replay(
    database: Database, reading_database: Database, credentials: Credentials, operator: Operator, new: NewReplay
) -> ReplayView:
    """A new replay, which the worker begins within seconds.

    Raises SchemaValidationFailed for a query or range that is wrong, NotFound for a project or source beyond the
    caller's reach, QueryTooBroad, and Conflict for a source that is disabled and a workspace with too many replays.
    """

    def require(session: Session) -> None:
        _find_target(session, operator, new)
        _require_few(session, operator)

    with of_query():
        parse(new.query.q)
    minted = mint_for(database, credentials, operator, "sk", require)
    found = find_query(reading_database, operator, new.query)
    with mutation(database, operator) as session:
        # The source stays unarchived until the commit, and two at once are not both the last one.
        exclude_parents(session, operator.workspace_id)
        source = _find_target(session, operator, new)
        _require_few(session, operator)
        return _add(session, minted, operator, new, found, source)


def _add(
    session: Session, minted: Minted, operator: Operator, new: NewReplay, found: FoundQuery, source: Source
) -> ReplayView:
    public_id = new_public_id(PREFIX)
    # Without the request: the response shows no key, so a retry of it is answered with the replay.
    key = add_key(session, minted, replace(operator, request=None), source, NewKey(label=f"replay {public_id}"))
    (key_row,) = find(session, SourceKey.within(operator.workspace_id).with_only_columns(SourceKey.id), key.id)
    row = Replay(
        public_id=public_id,
        workspace_id=operator.workspace_id,
        project_id=found.project_row,
        requested_by=operator.actor,
        q=found.normalized,
        names=asdict(found.names),
        begins_at=found.range.begin,
        ends_at=found.range.end,
        target_project_id=source.project_id,
        target_source_id=source.id,
        source_key_id=key_row,
        rate=new.rate,
        last_position=found.last_position,
        count=found.count,
    )
    audited = {
        "q": row.q,
        "from": row.begins_at,
        "to": row.ends_at,
        "target_source_id": source.public_id,
        "key_id": key.id,
        "rate": row.rate,
    }
    insert(session, operator, row, "replay.create", audited)
    session.refresh(row)
    return view_of_replay(row, new.query.project_id, source.public_id, key.id)


def list_replays(database: Database, operator: Operator, only: ReplayFilter, request: PageRequest) -> Page[ReplayView]:
    """Replays within the caller's reach, newest first."""
    query = replays_within(operator).where(
        equal_if_given(Project.public_id, only.project_id),
        equal_if_given(Source.public_id, only.source_id),
        equal_if_given(Replay.state, only.state),
    )
    with database.transaction(operator.workspace_id) as session:
        return Listing(f"replays {asdict(only)}", query, view_of_replay).page(session, operator.workspace_id, request)


def read_replay(database: Database, operator: Operator, replay_id: str) -> ReplayView:
    with database.transaction(operator.workspace_id) as session:
        return view_of_replay(*_find(session, operator, replay_id))


def cancel_replay(database: Database, operator: Operator, target: Target) -> ReplayView:
    """End a replay: after this has returned, it stores no further event; does nothing to one that has ended.

    A group of its events is committed with a note on its row, or not at all: so the lock on that row waits for the
    group that is being stored, and the next one finds the replay cancelled. Its key is locked before, as everywhere.
    """
    with mutation(database, operator) as session:
        *_, key_id = _find(session, operator, target.public_id)
        (key,) = find_to_change(session, operator, SourceKey.within(operator.workspace_id), Target(key_id))
        row, *others = find_to_change(session, operator, replays_within(operator), target)
        if row.state in PENDING:
            ended = moment(session)
            update(session, operator, key, "source_key.revoke", {"revoked_at": key.revoked_at or ended})
            update(session, operator, row, "replay.cancel", {"state": JobState.CANCELLED, "ended_at": ended})
        return view_of_replay(row, *others)


def _find(session: Session, operator: Operator, replay_id: str) -> tuple[Any, ...]:
    """A row of replays_within(), for whose project the request counts: the one that is read. Raises NotFound."""
    row = find(session, replays_within(operator), replay_id)
    note_project(row[1])
    return row


def _find_target(session: Session, operator: Operator, new: NewReplay) -> Source:
    source: Source
    try:
        source, *_ = find(session, live_sources(operator), new.target_source_id)
    except NotFound:
        raise NotFound(faults=(Fault("/target_source_id", _NO_SOURCE),)) from None
    if source.disabled_at is not None:
        raise Conflict(_DISABLED, faults=(Fault("/target_source_id", "Disabled."),))
    return source


def _require_few(session: Session, operator: Operator) -> None:
    pending = Replay.within(operator.workspace_id).where(Replay.ended_at.is_(None))
    if session.execute(pending.with_only_columns(func.count())).scalar_one() >= PENDING_MAX:
        raise Conflict(_TOO_MANY_PENDING)
