"""What a maintenance task is, what its run works with, and what it returns."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from app.config import Settings
from app.database.clock import Clocks
from app.database.engine import Database
from app.database.owner import Owner

RUN_SECONDS: Final = 40
"""When a run should end by itself, unless its task names another limit."""

StopCheck = Callable[[], bool]
"""Whether a run should stop between two steps."""


class TaskResult(NamedTuple):
    rows: int
    """Rows, partitions or keys, depending on the task."""
    has_more: bool = False
    """It stopped for lack of time; the next tick continues."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskContext:
    database: Database
    owner: Owner
    settings: Settings
    now: datetime
    """The time of the whole run, by PostgreSQL's clock, in UTC."""
    own_now: datetime | None = None
    """The same moment by this machine's clock, if that differs."""
    ends_at: float = field(default_factory=lambda: time.monotonic() + RUN_SECONDS)
    """time.monotonic() seconds."""

    def is_over(self) -> bool:
        """Whether the run should stop, with `has_more` if work is left."""
        return time.monotonic() >= self.ends_at

    def deletes_by(self) -> datetime:
        """The time by which a run deletes: the earlier of both clocks. Raises ClockSkewError."""
        return Clocks(self.now, self.own_now or self.now).earlier()


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    name: str
    every: timedelta
    work: Callable[[TaskContext], TaskResult]
    """Safe to run twice, concurrently, and to be killed anywhere."""
    seconds: int = RUN_SECONDS
    """How long a run may take before it ends by itself; longer if one step is long."""
    is_quiet: bool = False
    """A successful run is logged at DEBUG whatever it has done."""
    lock: str = ""
    """Tasks with the same lock never run concurrently; empty: a lock of its own."""

    @property
    def celery_name(self) -> str:
        return f"maintenance.{self.name}"

    @property
    def lock_name(self) -> str:
        return self.lock or self.celery_name


def never() -> bool:
    """The StopCheck of a run without a time limit."""
    return False


def in_batches(step: Callable[[], int], batch_rows: int, is_over: StopCheck, *, rests: float = 0.0) -> TaskResult:
    """Repeat `step`, which returns how many rows it has done, until it does fewer than `batch_rows` or time is over.

    After each step it sleeps `rests` times as long as the step took, which leaves cores and disk to ingest.
    """
    rows = 0
    while True:
        began = time.monotonic()
        done = step()
        rows += done
        if done < batch_rows:
            return TaskResult(rows)
        if is_over():
            return TaskResult(rows, has_more=True)
        time.sleep(rests * (time.monotonic() - began))
