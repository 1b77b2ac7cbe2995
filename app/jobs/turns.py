"""Gives jobs their turns: a few seconds each, the workspaces one after the other, whatever each has queued."""

import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import structlog
from sqlalchemy import (
    ColumnElement,
    CursorResult,
    Row,
    Select,
    case,
    func,
    literal,
    or_,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.orm import Session

from app.database.engine import Database, TenantScope
from app.errors import IdempotencyInProgress, InternalError, QueryTooBroad, Refusal, StorageUnavailable
from app.maintenance.task import TaskContext, TaskResult
from app.models.job import PENDING, JobState

_log = structlog.get_logger()

TURN_SECONDS: Final = 2.0
"""How long a turn may take before it ends by itself."""
# With nothing due, a throttled job is waited for in such steps.
_PAUSE_SECONDS: Final = 0.1
# A job that is due later than this was dated by a clock that has been set back since.
_DUE_WITHIN: Final = text("interval '1 minute'")
_SECOND: Final = literal(timedelta(seconds=1))
ATTEMPTS_MAX: Final = 10
"""How many turns in a row a job gets that note nothing. With the pauses between them that takes some five minutes."""
_BACK_OFF_SECONDS_MAX: Final = 60
# What one attempt meets, the next one need not: a slow statement must not end a job of twenty hours.
_PASSING: Final = (StorageUnavailable, QueryTooBroad, IdempotencyInProgress)


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of one job."""

    context: TaskContext
    workspace_id: int
    row: int
    ends_at: float
    """In time.monotonic() seconds."""
    due_at: datetime
    """From when on it could have been given, by PostgreSQL's clock."""
    attempts: int = 1
    """Turns since the last one that has noted something, with this one."""

    @property
    def database(self) -> Database:
        return self.context.database

    def is_over(self) -> bool:
        """Whether to end it; the job gets another one."""
        return time.monotonic() >= self.ends_at or self.context.is_over()


class JobError(Exception):
    """Ends a job as failed, with a code that its kind documents; may_pass: after ATTEMPTS_MAX turns without a note."""

    def __init__(self, code: str, *, may_pass: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.may_pass = may_pass


Work = Callable[[Turn], None]
"""Does a part of a job and notes it with note(). Safe to be killed anywhere, and to be repeated from the last note.

A Refusal or a JobError that it raises ends the job as failed, with its code. After StorageUnavailable, QueryTooBroad
and IdempotencyInProgress the job gets another turn, ATTEMPTS_MAX in a row.
"""
OnFailed = Callable[[Session, Turn], None]
"""What else ends when a job fails: in the same transaction, before the job's row is changed. Safe to be repeated."""


class Kind(NamedTuple):
    """A kind of job: its table, and what a turn does."""

    model: type[Any]
    work: Work
    on_failed: OnFailed | None = None


def note(session: Session, model: type[Any], row: int, *conditions: ColumnElement[bool], **values: Any) -> bool:
    """Change a job that is running, and say that it gets on; its next turn is due at once unless `due_at` is given.

    False, and nothing is changed, if it has been cancelled meanwhile, or if a condition is not met.
    """
    now = func.clock_timestamp()
    noted = {"attempts": 0, "due_at": now, "progressed_at": now} | values
    changed: CursorResult[Any] = session.execute(  # type: ignore[assignment]
        update(model).where(model.id == row, model.state == JobState.RUNNING, *conditions).values(**noted)
    )
    return changed.rowcount == 1


def end(session: Session, model: type[Any], row: int, state: JobState, **values: Any) -> bool:
    """As note(), for its last change."""
    return note(session, model, row, state=state, ended_at=func.clock_timestamp(), **values)


def postpone(session: Session, model: type[Any], row: int, seconds: float) -> None:
    """Give a running job no turn for so many seconds, a minute at the most, though it has not got on."""
    due_at = func.clock_timestamp() + timedelta(seconds=seconds)
    note(session, model, row, due_at=due_at, progressed_at=model.progressed_at)


class PendingJobs(NamedTuple):
    """What waits for turns, over all workspaces."""

    jobs: int
    oldest_at: datetime | None
    """When the oldest of them was made."""
    stalled_since: datetime | None
    """When that one got on, or was made, which has not got on for longest."""


def read_pending(session: Session, kinds: Sequence[Kind], jobs_max: int) -> PendingJobs:
    """Counting ends at `jobs_max` of each kind."""
    found = (_moments(kind.model).where(kind.model.ended_at.is_(None)).limit(jobs_max) for kind in kinds)
    jobs = union_all(*(select(each.subquery()) for each in found)).subquery()
    moments = (func.min(jobs.c.created_at), func.min(jobs.c.got_on_at))
    return PendingJobs(*session.execute(select(func.count(), *moments)).one())


def _moments(model: type[Any]) -> Select[Any]:
    return select(model.created_at, func.coalesce(model.progressed_at, model.created_at).label("got_on_at"))


def run_jobs(kinds: Sequence[Kind], context: TaskContext) -> TaskResult:
    """Give turns until no job is pending, or time is over. One run at a time, over all workers (scheduler.py).

    A row of its result is a turn. Raises StorageUnavailable if PostgreSQL is away.
    """
    turns = 0
    while not context.is_over():
        with context.database.transaction(TenantScope.ALL) as session:
            due = _take_turn(session, kinds)
            is_idle = due is None and not _is_any_pending(session, kinds)
        if is_idle:
            return TaskResult(turns)
        if due is None:
            time.sleep(_PAUSE_SECONDS)
            continue
        kind, found = due
        ends_at = time.monotonic() + TURN_SECONDS
        give_turn(kind, Turn(context, found.workspace_id, found.id, ends_at, found.due_at, found.attempts + 1))
        turns += 1
    return TaskResult(turns, has_more=True)


def _take_turn(session: Session, kinds: Sequence[Kind]) -> tuple[Kind, Row[Any]] | None:
    """The pending job whose workspace has waited longest for a turn, as it was before it was marked as running.

    The attempt counts from now on, so that of a turn which kills its worker something is left: the next one comes
    later each time.
    """
    pending = union_all(*(_pending(number, kind.model) for number, kind in enumerate(kinds))).subquery()
    ranked = select(pending, _last_turn(kinds, pending.c.workspace_id).label("last")).subquery()
    now = func.statement_timestamp()
    is_due = or_(ranked.c.due_at <= now, ranked.c.due_at > now + _DUE_WITHIN)
    own = case((ranked.c.turn_at <= now, ranked.c.turn_at))  # in the future: as in _last_turn()
    order = (ranked.c.last.asc().nulls_first(), own.asc().nulls_first(), ranked.c.due_at, ranked.c.id)
    found = session.execute(select(ranked).where(is_due).order_by(*order).limit(1)).one_or_none()
    if found is None:
        return None
    kind = kinds[found.kind]
    model = kind.model
    seconds = func.least(func.power(2, model.attempts), _BACK_OFF_SECONDS_MAX)
    session.execute(
        update(model)
        .where(model.id == found.id, model.state.in_(PENDING))
        .values(
            state=JobState.RUNNING,
            started_at=func.coalesce(model.started_at, now),
            turn_at=now,
            attempts=model.attempts + 1,
            due_at=now + seconds * _SECOND,
        )
    )
    return kind, found


def _last_turn(kinds: Sequence[Kind], workspace_id: ColumnElement[int]) -> ColumnElement[datetime | None]:
    """When the workspace had its last turn, of jobs that have ended too.

    With many small jobs, each of which ends in its first turn, it would otherwise always come first. A turn in the
    future was dated by a clock that has been set back since, and does not count.
    """
    last = (
        select(func.max(kind.model.turn_at))
        .where(kind.model.workspace_id == workspace_id, kind.model.turn_at <= func.now())
        .scalar_subquery()
        for kind in kinds
    )
    return func.greatest(*last)


def _pending(number: int, model: type[Any]) -> Select[Any]:
    columns = (model.id, model.workspace_id, model.turn_at, model.due_at, model.attempts)
    return select(literal(number).label("kind"), *columns).where(model.ended_at.is_(None))


def _is_any_pending(session: Session, kinds: Sequence[Kind]) -> bool:
    return read_pending(session, kinds, 1).jobs > 0


def give_turn(kind: Kind, turn: Turn) -> None:
    """Have the work of a turn done, and the job failed if it cannot be."""
    if turn.attempts > ATTEMPTS_MAX:  # each of them has ended with its process, or has done nothing
        _fail(kind, turn, InternalError.code)
        return
    try:
        # What a turn binds to the log's context is of its job alone.
        copy_context().run(kind.work, turn)
    except (JobError, Refusal) as error:
        may_pass = error.may_pass if isinstance(error, JobError) else isinstance(error, _PASSING)
        if may_pass and turn.attempts < ATTEMPTS_MAX:
            # If PostgreSQL is away, what comes next fails as well, and ends the run.
            cause = repr(error.__cause__ or error)
            _log.warning("job_postponed", **_named(kind, turn), attempts=turn.attempts, cause=cause)
        else:
            _fail(kind, turn, error.code)
    except Exception:
        # Celery interrupts a run that does not end. It did not say so of this job.
        if turn.context.is_over():
            raise
        _log.exception("job_broken", **_named(kind, turn))
        _fail(kind, turn, InternalError.code)


def _fail(kind: Kind, turn: Turn, code: str) -> None:
    with turn.database.transaction(turn.workspace_id) as session:
        if kind.on_failed is not None:
            kind.on_failed(session, turn)
        is_failed = end(session, kind.model, turn.row, JobState.FAILED, failure=code)
    if is_failed:  # and has not been cancelled, or completed by a turn of another run
        _log.info("job_failed", **_named(kind, turn), attempts=turn.attempts, failure=code)


def _named(kind: Kind, turn: Turn) -> dict[str, Any]:
    return {"job": kind.model.__tablename__, "row": turn.row}
