"""The turns of a replay: reads the next events of its query, and stores them in its source, some at a time.

A group of events and the note how far the replay has come are one transaction. So whatever is killed or lost, and
whatever runs twice, the next turn goes on where the stored events end; and the ids of a new event are made of the
replay and the original, so that a second try of it is recognised.

Locks are taken in one order: the row of the key, the barrier, the row of the replay. A group takes the last two, the
end and the cancellation of a replay the first and the last, and who revokes the key the first two.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.audit.entries import WORKER, Author, Mutation, record
from app.credentials.verification import Identity
from app.errors import IdempotencyInProgress, Refusal
from app.events.feed.cursors import BEGIN, Place, behind_all_of
from app.events.feed.domain import Bounds, Feed, Page
from app.events.query.parsing import parse
from app.events.query.resolution import KnownNames
from app.events.ranges import TimeRange
from app.events.segments import span_of
from app.events.statements import EXPORT, reading
from app.ingest.batch.storing import AgainError, PoisonedError, Stored, executing, store_all, store_apart
from app.ingest.retries import PAUSE_SECONDS
from app.ingest.storage import Outcome
from app.ingest.verdicts import refusal_of
from app.jobs.replayed import attempt_of
from app.jobs.turns import Turn, end, note, postpone
from app.management.common.mutations import moment, next_updated_at
from app.management.common.operators import at_the_shell
from app.models import Project, Replay, Source, SourceKey, Workspace
from app.models.job import JobState

_log = structlog.get_logger()

GROUP_EVENTS: Final = 100
"""How many events are stored together at the most: a few milliseconds, in which live producers wait for nothing."""
# How late a group may be without making the replay slower: as long as a neighbour's turn, of an export with its last
# chunk, so that it keeps its rate beside others. That is what may come at once.
_LATE_SECONDS: Final = 5.0
# After each page it rests for so many times as long as the page took, as an export does: a rare query reads much.
_RESTS: Final = 0.5
_WAIT_SECONDS: Final = 1.0
# A longer pause ends the turn, so that other jobs get theirs.
_PAUSE_SECONDS_MAX: Final = 0.15
# What refuses all that would come after it, too.
_ENDING: Final = frozenset(
    (
        Outcome.INVALID_SOURCE_KEY,
        Outcome.WRONG_CELL,
        Outcome.WORKSPACE_MOVING,
        Outcome.WORKSPACE_SUSPENDED,
        Outcome.SOURCE_DISABLED,
        Outcome.SOURCE_MISMATCH,
        Outcome.ENVIRONMENT_MISMATCH,
        Outcome.ORIGIN_NOT_ALLOWED,
        Outcome.ADDRESS_NOT_ALLOWED,
    )
)
_STORED: Final = (Outcome.STORED, Outcome.RESUMED)


def replay_events(turn: Turn) -> None:
    """Replay for a turn. Raises a Refusal if the replay cannot go on, or not now."""
    # If it has not been cancelled it goes on in another turn.
    with suppress(_EndedError):
        _Replaying.read(turn).run()


class _EndedError(Exception):
    """Leaves the transaction: the replay has ended, or goes on in another run. So nothing is stored."""


@dataclass(frozen=True, slots=True)
class _Progress:
    """How far a replay has come."""

    place: Place
    events: int
    stored: int
    duplicates: int
    refused: Mapping[str, int]
    reached_at: datetime | None

    @classmethod
    def of(cls, row: Replay) -> "_Progress":
        place = Place(row.position, row.event_uid)
        return cls(place, row.events, row.stored, row.duplicates, row.refused, row.reached_at)

    def after(self, page: Page, stored: Sequence[Stored]) -> "_Progress":
        """When these are stored. Raises the Refusal that would meet all that come after them, too."""
        outcomes = Counter(each.code if isinstance(each, Refusal) else each[1].outcome for each in stored)
        for outcome in _ENDING & outcomes.keys():
            raise refusal_of(Outcome(outcome))
        accepted = sum(outcomes.pop(each, 0) for each in _STORED)
        duplicates = outcomes.pop(Outcome.DUPLICATE, 0)
        return _Progress(
            place=page.reached,
            events=self.events + len(stored),
            stored=self.stored + accepted,
            duplicates=self.duplicates + duplicates,
            refused=Counter(self.refused) + Counter({str(code): events for code, events in outcomes.items()}),
            reached_at=page.data[-1].received_at if page.data else self.reached_at,
        )

    def columns(self) -> dict[str, Any]:
        """By the names of the columns."""
        return {
            "position": self.place.position,
            "event_uid": self.place.event_uid,
            "events": self.events,
            "stored": self.stored,
            "duplicates": self.duplicates,
            "refused": dict(self.refused),
            "reached_at": self.reached_at,
        }


@dataclass(slots=True)
class _Replaying:
    """A replay in a turn."""

    turn: Turn
    replay_id: str
    source_id: str
    identity: Identity
    project_row: int
    feed: Feed
    bounds: Bounds
    rate: int
    progress: _Progress
    due_at: datetime
    """When the next group is due; what is past is made up for, up to a bound."""

    @classmethod
    def read(cls, turn: Turn) -> "_Replaying":
        """As the last turn has left it. Raises _EndedError."""
        query = (
            Replay.within(turn.workspace_id)
            .where(Replay.id == turn.row, Replay.state == JobState.RUNNING)
            .join(Project, Project.id == Replay.project_id)
            .join(Source, Source.id == Replay.target_source_id)
            .join(SourceKey, SourceKey.id == Replay.source_key_id)
            .join(Workspace, Workspace.id == Replay.workspace_id)
            .add_columns(Project.public_id, Source.public_id, SourceKey.public_id, Workspace.events_per_second)
        )
        with turn.database.transaction(turn.workspace_id) as session:
            found = session.execute(query).one_or_none()
        if found is None:
            raise _EndedError
        row, project_id, source_id, key_id, limit = found
        # Not beyond what all keys of the workspace together may send.
        limit = limit or turn.context.settings.workspace_events_per_second or row.rate
        bounds = Bounds(TimeRange(row.begins_at, row.ends_at), row.last_position)
        return cls(
            turn=turn,
            replay_id=row.public_id,
            source_id=source_id,
            identity=Identity(public_id=key_id, row_id=row.source_key_id, workspace_id=turn.workspace_id),
            project_row=row.project_id,
            feed=Feed(project_id, parse(row.q), bounds, KnownNames(**row.names)),
            bounds=bounds,
            rate=min(row.rate, limit),
            progress=_Progress.of(row),
            due_at=turn.due_at,
        )

    def run(self) -> None:
        """Store group after group until the turn is over, or the replay. Raises a Refusal, and _EndedError."""
        operator = at_the_shell(self.turn.workspace_id)
        end_of_range = behind_all_of(self.bounds.last_position)
        place = self._behind_gap() if self.progress.place == BEGIN else self.progress.place
        while place < end_of_range:
            began = time.monotonic()
            page = self.feed.page(self.turn.database, operator, place, self._group_events)
            took = time.monotonic() - began
            pause = self._store(page)
            if pause > _PAUSE_SECONDS_MAX or self.turn.is_over():
                return
            if not page.data and page.reached <= place:
                self._wait()
                return
            place = page.reached if page.data else self._behind_gap()
            _rest(max(pause, _RESTS * took))
        _complete(self.turn)

    @property
    def _group_events(self) -> int:
        return min(GROUP_EVENTS, max(1, self.rate // 2))

    def _behind_gap(self) -> Place:
        """Where it has come to, or behind what holds no event of the range by the skip index."""
        with reading(self.turn.database, self.turn.workspace_id, EXPORT) as session:
            span = span_of(session, self.project_row, self.bounds.received)
        place = self.progress.place
        first = span.first if place.position <= span.last else span.newest + 1
        return max(place, behind_all_of(first - 1))

    def _store(self, page: Page) -> float:
        """Store the events of a page, and note it; returns how long to pause then, in seconds.

        Raises _EndedError, a Refusal, IdempotencyInProgress and StorageUnavailable; then nothing is stored.
        """
        attempts = [
            attempt_of(original, place.position, self.replay_id, self.source_id)
            for original, place in zip(page.data, page.places, strict=True)
        ]
        store = store_all
        while True:
            try:
                with self.turn.database.transaction(self.turn.workspace_id) as session:
                    stored = store(executing(session), self.identity, attempts, self.turn.context.settings)
                    progress = self.progress.after(page, stored)
                    pause, due_at = self._note(session, progress)
            except AgainError:
                if self.turn.is_over():
                    raise IdempotencyInProgress from None
                time.sleep(PAUSE_SECONDS)
            except PoisonedError:
                store = store_apart
            else:
                self.progress, self.due_at = progress, due_at
                return pause

    def _wait(self) -> None:
        """A group that is taking its position hides what comes behind it."""
        with self.turn.database.transaction(self.turn.workspace_id) as session:
            postpone(session, Replay, self.turn.row, _WAIT_SECONDS)

    def _note(self, session: Session, progress: _Progress) -> tuple[float, datetime]:
        """How long to pause, and until when. By PostgreSQL's clock; one that is set back makes no gap."""
        own = select(Replay.position, Replay.event_uid).where(Replay.id == self.turn.row)
        if session.execute(own.with_for_update(key_share=True)).one() != tuple(self.progress.place):
            raise _EndedError  # another run has stored this group, and must not be set back
        spacing = timedelta(seconds=(progress.events - self.progress.events) / self.rate)
        now = func.clock_timestamp()
        due = func.least(func.greatest(self.due_at, now - timedelta(seconds=_LATE_SECONDS)), now) + spacing
        if not note(session, Replay, self.turn.row, due_at=due, **progress.columns()):
            raise _EndedError
        noted = select(func.date_part("epoch", Replay.due_at - now), Replay.due_at).where(Replay.id == self.turn.row)
        pause, due_at = session.execute(noted).one()
        return float(pause), due_at


def _rest(seconds: float) -> None:
    time.sleep(max(0.0, seconds))


def _complete(turn: Turn) -> None:
    with turn.database.transaction(turn.workspace_id) as session:
        end_key(session, turn)
        is_ended = end(session, Replay, turn.row, JobState.COMPLETED)
    if is_ended:
        _log.info("replay_completed", row=turn.row)


def end_key(session: Session, turn: Turn) -> None:
    """Revoke the key of a replay that ends, before its row is changed; one that has ended has revoked it already.

    Without the barrier: only this replay could send with it.
    """
    key_of_it = (
        SourceKey.within(turn.workspace_id)
        .join(Replay, Replay.source_key_id == SourceKey.id)
        .where(Replay.id == turn.row)
        .with_for_update(key_share=True, of=SourceKey)
    )
    key = session.scalars(key_of_it).one()
    if key.revoked_at is not None:
        return
    key.revoked_at = moment(session)
    key.updated_at = next_updated_at(session, key.updated_at)
    revoked = Mutation(
        action="source_key.revoke",
        object_id=key.public_id,
        project_row=key.project_id,
        before={"revoked_at": None},
        after={"revoked_at": key.revoked_at},
    )
    record(session, Author(workspace_id=key.workspace_id, actor=WORKER), revoked)
