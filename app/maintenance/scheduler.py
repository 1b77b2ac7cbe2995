"""Runs a task when it is due: one run at a time over all workers, with its outcome in `maintenance_tasks`.

Beat sends a tick more often than a task is due. The worker decides whether it is due by what earlier runs have left in
the table. So the next tick makes up for a missed run, a second beat changes nothing, and a failed task is retried
after pauses that double, without a delayed message in the broker.
"""

import logging
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import psycopg
import structlog
from sqlalchemy import Row, TextClause, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import OperationalError as EngineOperationalError

from app.database.advisory_locks import try_lock
from app.database.clock import SKEW_MAX, ClockSkewError
from app.database.engine import TenantScope
from app.database.owner import OwnerBusyError
from app.errors import StorageUnavailable
from app.maintenance.task import Task, TaskContext, TaskResult

_log = structlog.get_logger()

_PAUSE: Final = timedelta(seconds=5)
_PAUSE_MAX: Final = timedelta(minutes=1)
_DOUBLINGS_MAX: Final = 20
_ERROR_CHARACTERS_MAX: Final = 500
_CUT_OFF: Final = "cut off: the worker was killed, or lost the database, in the middle of the run"
# Faults of the surroundings: a lost database, a held lock, a full disk, a wrong clock. Their traceback is noise.
_EXTERNAL: Final = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    EngineOperationalError,
    StorageUnavailable,
    OwnerBusyError,
    ClockSkewError,
)

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
# By run number: a run that lost its lock with its connection may end after another run has begun and has counted it as
# cut off. It must not end that other run in the table.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    task: Task
    number: int
    context: TaskContext
    began: float = field(default_factory=time.monotonic)

    def record(self, statement: TextClause, **outcome: object) -> None:
        seconds = time.monotonic() - self.began
        now = self.context.now + timedelta(seconds=seconds)
        values = {"name": self.task.name, "run": self.number, "now": now, "seconds": seconds, **outcome}
        with self.context.database.transaction(TenantScope.ALL) as session:
            is_recorded = session.execute(statement, values).rowcount  # type: ignore[attr-defined]
        if not is_recorded:
            _log.warning("maintenance_overtaken", task=self.task.name)


def run_if_due(task: Task, context: TaskContext) -> TaskResult | None:
    """Run `task`; None if it is running elsewhere, is not due, or failed.

    1. Take the task's lock, or return.
    2. Begin a run in the table if it is due; a run that was left open counts as cut off.
    3. Do the work.
    4. Log a failure, then record it: what failed may be the database.
    5. Record and log a success.

    Raises StorageUnavailable if PostgreSQL is away: no work is possible, and no record.
    """
    # Cells may share a database, and locks with it.
    lock = " ".join(filter(None, (context.settings.cell, task.lock_name)))
    with try_lock(context.database, lock) as is_locked:
        if not is_locked or (number := _begin(task, context)) is None:
            return None
        run = _Run(task=task, number=number, context=context)
        try:
            result = task.work(context)
        except Exception as error:  # noqa: BLE001 - any error must be logged and the task retried
            reason = _reason(error)
            _log.error("maintenance_failed", task=task.name, reason=reason, exc_info=not isinstance(error, _EXTERNAL))
            run.record(_FAIL, error=reason[:_ERROR_CHARACTERS_MAX])
            return None
        run.record(_SUCCEED, rows=result.rows, has_more=result.has_more)
        level = logging.DEBUG if task.is_quiet or not (result.rows or result.has_more) else logging.INFO
        _log.log(level, "maintenance_done", task=task.name, rows=result.rows, has_more=result.has_more)
        return result


def pause_after(every: timedelta, failures_in_a_row: int) -> timedelta:
    """From one start to the next. The first retry after a failure comes at the next tick."""
    if not failures_in_a_row:
        return every
    if failures_in_a_row == 1:
        return timedelta()
    doubled = _PAUSE * (1 << min(failures_in_a_row - 2, _DOUBLINGS_MAX))
    return min(doubled, max(every, _PAUSE_MAX))


def _begin(task: Task, context: TaskContext) -> int | None:
    """The number of the run that has begun; None if it is not due."""
    with context.database.transaction(TenantScope.ALL) as session:
        state = session.execute(_STATE, {"name": task.name}).one_or_none()
        if state is not None and not _is_due(task, state, context.now):
            return None
        # An open run whose lock is free: its worker is gone.
        was_cut_off = state is not None and state.is_open
        values = {"name": task.name, "now": context.now, "cut_off": was_cut_off, "error": _CUT_OFF}
        number: int = session.execute(_BEGIN, values).scalar_one()
        return number


def _is_due(task: Task, state: Row[tuple[datetime, int, bool, bool]], now: datetime) -> bool:
    pause = pause_after(task.every, state.failures_in_a_row + state.is_open)
    if state.has_more and not state.failures_in_a_row and not state.is_open:
        return True
    # Ticks are not exact to the millisecond. A start in the future was written by a clock that has been set back since.
    return bool(now >= state.started_at + 0.9 * pause or state.started_at > now + SKEW_MAX)


def _reason(error: BaseException) -> str:
    """Class, SQLSTATE and message of the root cause, in one line."""
    cause = _root_cause(error)
    state = getattr(cause, "sqlstate", None)
    code = f" ({state})" if state else ""
    return " ".join(f"{type(cause).__name__}{code}: {cause}".split())


def _root_cause(error: BaseException) -> BaseException:
    """StorageUnavailable and SQLAlchemy's errors only wrap what PostgreSQL or the network reported."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig
    if isinstance(error, StorageUnavailable) and error.__cause__ is not None:
        return _root_cause(error.__cause__)
    return error
