"""Runs a task when it is due: one run at a time, however many beats and workers there are, and its outcome is kept.

Beat rings each bell more often than the task is wanted. Whether it is due is decided here, by what earlier runs have
left in `maintenance_tasks`: so a run that was missed is made up for at the next ring, a second beat changes nothing,
and a task that fails is tried again after pauses that double, with no message that waits in the broker for its time.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import structlog
from sqlalchemy import Row, TextClause, text

from app.config import Settings
from app.database.advisory_locks import try_lock
from app.database.clock import SKEW_MAX, Clocks
from app.database.engine import Database, TenantScope
from app.database.owner import Owner
from app.maintenance.failures import in_one_line, is_of_the_world

_log = structlog.get_logger()

RUN_SECONDS: Final = 40
"""When a run should come to its end by itself, unless its task says otherwise."""
_PAUSE: Final = timedelta(seconds=5)
_PAUSE_MAX: Final = timedelta(minutes=1)
_DOUBLINGS_MAX: Final = 20
_ERROR_CHARACTERS_MAX: Final = 500
_CUT_OFF: Final = "cut off: the worker was killed, or lost the database, in the middle of the run"

_STATE = text("""
    SELECT started_at, failures_in_a_row, has_more,
        started_at > coalesce(greatest(succeeded_at, failed_at), '-infinity') AS is_open
    FROM maintenance_tasks WHERE name = :name
""")
_BEGIN = text("""
    INSERT INTO maintenance_tasks AS task (name, started_at, runs) VALUES (:name, :now, 1)
    ON CONFLICT (name) DO UPDATE SET
        started_at = :now,
        runs = task.runs + 1,
        failed_at = CASE WHEN :cut_off THEN task.started_at ELSE task.failed_at END,
        error = CASE WHEN :cut_off THEN :error ELSE task.error END,
        failures = task.failures + CAST(:cut_off AS integer),
        failures_in_a_row = task.failures_in_a_row + CAST(:cut_off AS integer)
    RETURNING runs
""")
# By its number: a run that has lost its turn with the connection may come to its end after another one has begun, and
# been counted as cut off. It must not end that one in the table.
_SUCCEED = text("""
    UPDATE maintenance_tasks SET succeeded_at = greatest(:now, started_at), failures_in_a_row = 0, has_more = :has_more,
        rows_done = rows_done + :rows, seconds = :seconds, seconds_total = seconds_total + :seconds
    WHERE name = :name AND runs = :run
""")
_FAIL = text("""
    UPDATE maintenance_tasks SET failed_at = greatest(:now, started_at), error = :error, failures = failures + 1,
        failures_in_a_row = failures_in_a_row + 1, seconds = :seconds, seconds_total = seconds_total + :seconds
    WHERE name = :name AND runs = :run
""")


class Done(NamedTuple):
    """What a run has done."""

    rows: int
    """Rows, partitions, keys: whatever the task is about."""
    has_more: bool = False
    """It ended for lack of time: the next ring goes on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shift:
    """What a run works with."""

    database: Database
    owner: Owner
    settings: Settings
    now: datetime
    """PostgreSQL's, in UTC; the one moment that the whole run takes as now."""
    own_now: datetime | None = None
    """The same moment by this machine's clock, if that is another one."""
    ends_at: float = field(default_factory=lambda: time.monotonic() + RUN_SECONDS)
    """time.monotonic() seconds."""

    def is_over(self) -> bool:
        """Whether the run should come to its end, with `has_more` if there is more."""
        return time.monotonic() >= self.ends_at

    def deletes_by(self) -> datetime:
        """What a run that deletes takes as now: the earlier of both clocks. Raises ClockSkewError."""
        return Clocks(self.now, self.own_now or self.now).earlier()


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One kind of work that comes round."""

    name: str
    every: timedelta
    work: Callable[[Shift], Done]
    """Safe to run twice and at once, and to be killed anywhere."""
    seconds: int = RUN_SECONDS
    """How long a run takes at the most before it comes to an end by itself. One with a long step says so."""
    is_quiet: bool = False
    """A good run is no news, whatever it has done."""
    turn: str = ""
    """Tasks with the same one never run at once; empty: it has its own."""

    @property
    def bell(self) -> str:
        """Its name in Celery."""
        return f"maintenance.{self.name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """A run that has begun."""

    task: Task
    number: int
    shift: Shift
    began: float = field(default_factory=time.monotonic)

    def note(self, statement: TextClause, **outcome: object) -> None:
        seconds = time.monotonic() - self.began
        now = self.shift.now + timedelta(seconds=seconds)
        values = {"name": self.task.name, "run": self.number, "now": now, "seconds": seconds, **outcome}
        with self.shift.database.transaction(TenantScope.ALL) as session:
            is_noted = session.execute(statement, values).rowcount  # type: ignore[attr-defined]
        if not is_noted:
            _log.warning("maintenance_overtaken", task=self.task.name)


def run_if_due(task: Task, shift: Shift) -> Done | None:
    """Run `task` unless it is running or not due yet; None if so, or if it failed, which the table and the log say.

    Raises StorageUnavailable if PostgreSQL is away: then there is nothing to be done, and nowhere to write it down.
    """
    with try_lock(shift.database, task.turn or task.bell) as is_ours:
        if not is_ours or (number := _begin(task, shift)) is None:
            return None
        run = _Run(task=task, number=number, shift=shift)
        try:
            done = task.work(shift)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must be seen and tried again
            # First the log: what has failed may be the very database that it is noted in.
            reason = in_one_line(error)
            _log.error("maintenance_failed", task=task.name, reason=reason, exc_info=not is_of_the_world(error))
            run.note(_FAIL, error=reason[:_ERROR_CHARACTERS_MAX])
            return None
        run.note(_SUCCEED, rows=done.rows, has_more=done.has_more)
        level = logging.DEBUG if task.is_quiet or not (done.rows or done.has_more) else logging.INFO
        _log.log(level, "maintenance_done", task=task.name, rows=done.rows, has_more=done.has_more)
        return done


Clock = Callable[[], bool]
"""Whether it is time to come to an end."""


def never() -> bool:
    """The clock of whoever has all the time that it takes."""
    return False


def in_batches(step: Callable[[], int], batch_rows: int, is_over: Clock, *, rests: float = 0.0) -> Done:
    """Repeat `step`, which returns how many rows it has done, until it finds fewer than it takes or time is over.

    After each it rests for `rests` times as long as it took: what can wait leaves cores and disk to what cannot.
    """
    rows = 0
    while True:
        began = time.monotonic()
        done = step()
        rows += done
        if done < batch_rows:
            return Done(rows)
        if is_over():
            return Done(rows, has_more=True)
        time.sleep(rests * (time.monotonic() - began))


def pause_after(every: timedelta, failures_in_a_row: int) -> timedelta:
    """From one start to the next. The first try after a failure comes at the next ring."""
    if not failures_in_a_row:
        return every
    if failures_in_a_row == 1:
        return timedelta()
    doubled = _PAUSE * (1 << min(failures_in_a_row - 2, _DOUBLINGS_MAX))
    return min(doubled, max(every, _PAUSE_MAX))


def _begin(task: Task, shift: Shift) -> int | None:
    """The number of the run that has begun; None if it is not due."""
    with shift.database.transaction(TenantScope.ALL) as session:
        state = session.execute(_STATE, {"name": task.name}).one_or_none()
        if state is not None and not _is_due(task, state, shift.now):
            return None
        # Nobody else runs it, and it has no end: whoever ran it last is gone.
        was_cut_off = state is not None and state.is_open
        values = {"name": task.name, "now": shift.now, "cut_off": was_cut_off, "error": _CUT_OFF}
        number: int = session.execute(_BEGIN, values).scalar_one()
        return number


def _is_due(task: Task, state: Row[tuple[datetime, int, bool, bool]], now: datetime) -> bool:
    pause = pause_after(task.every, state.failures_in_a_row + state.is_open)
    if state.has_more and not state.failures_in_a_row and not state.is_open:
        return True
    # Rings do not come to the millisecond. A start in the future was written by a clock that has been set back since.
    return bool(now >= state.started_at + 0.9 * pause or state.started_at > now + SKEW_MAX)
