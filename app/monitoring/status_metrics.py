"""The system status as metrics, read at a scrape: backlogs, partitions, tasks, and whether PostgreSQL is up."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Final

import structlog
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from sqlalchemy.exc import SQLAlchemyError

from app.config import Settings
from app.database.engine import Database
from app.errors import StorageUnavailable
from app.monitoring.system_status import SystemStatus, TaskStatus, read_system_status

_log = structlog.get_logger()

# However many scrapes there are, PostgreSQL is asked once in five seconds, also while it is away.
_FRESH_SECONDS: Final = 5.0
_DAY_SECONDS: Final = 86_400

_UP: Final = ("lariba_database_up", "Whether PostgreSQL answered in time; at 0 all that it knows is missing.")
_POLICIES: Final[Mapping[str, tuple[str, Callable[[Settings], float]]]] = {
    "lariba_event_retention_seconds": (
        "How long events are to be kept (LARIBA_RETENTION_DAYS); +Inf: for ever.",
        lambda it: float("inf") if it.retention_days is None else it.retention_days * _DAY_SECONDS,
    ),
    "lariba_event_partitions_ahead_wanted_seconds": (
        "How far ahead partitions are to be made (LARIBA_PARTITIONS_AHEAD_DAYS).",
        lambda it: it.partitions_ahead_days * _DAY_SECONDS,
    ),
}
_STATUS: Final[Mapping[str, tuple[str, Callable[[SystemStatus], float | None]]]] = {
    "lariba_clock_skew_seconds": (
        "How far this machine's clock is ahead of PostgreSQL's; negative: behind.",
        lambda it: it.clock_skew_seconds,
    ),
    "lariba_usage_outbox_rows": ("Rows that wait to be folded, 100,000 at the most.", lambda it: it.outbox_rows),
    "lariba_usage_outbox_lag_seconds": (
        "How long the oldest accepted event has waited to be folded.",
        lambda it: it.outbox_lag_seconds,
    ),
    "lariba_idempotency_records_expired_rows": (
        "Idempotency records past their time that are still there, 100,000 at the most.",
        lambda it: it.expired_rows,
    ),
    "lariba_idempotency_records_expired_lag_seconds": (
        "For how long the oldest of them is past its time.",
        lambda it: it.expired_lag_seconds,
    ),
    "lariba_event_partitions": ("Daily partitions of events.", lambda it: it.partitions),
    "lariba_event_partitions_detached": (
        "Tables of single days that are no partition: a drop or an attachment that did not come to its end.",
        lambda it: it.detached_partitions,
    ),
    "lariba_event_partition_oldest_timestamp_seconds": (
        "The beginning of the oldest partition's day.",
        lambda it: _timestamp(it.oldest_partition_at),
    ),
    "lariba_event_partition_newest_timestamp_seconds": (
        "The beginning of the newest partition's day.",
        lambda it: _timestamp(it.newest_partition_at),
    ),
    "lariba_event_partitions_ahead_seconds": (
        "For how long from now on each day has its partition.",
        lambda it: it.partitions_ahead_seconds,
    ),
    "lariba_events_default_rows": (
        "Events in the default partition, whose days have none of their own; 100,000 at the most.",
        lambda it: it.default_partition_rows,
    ),
}
_OF_TASKS: Final[Mapping[str, tuple[str, Callable[[TaskStatus], float | None]]]] = {
    "lariba_task_interval_seconds": ("How often the task is wanted.", lambda it: it.every_seconds),
    "lariba_task_last_success_timestamp_seconds": (
        "When its last good run was over; the task canary proves beat, broker and worker.",
        lambda it: _timestamp(it.succeeded_at),
    ),
    "lariba_task_last_run_seconds": ("How long its last run took.", lambda it: it.seconds),
    "lariba_task_failures_in_a_row": ("Bad runs since the last good one.", lambda it: it.failures_in_a_row),
    "lariba_task_overdue": (
        "1 if its last good run is longer ago than three intervals and than five minutes, or never was.",
        lambda it: it.is_overdue,
    ),
}
_COUNTED_OF_TASKS: Final[Mapping[str, tuple[str, Callable[[TaskStatus], float | None]]]] = {
    "lariba_task_runs_total": ("Runs that began.", lambda it: it.runs),
    "lariba_task_failures_total": ("Runs that failed or were cut off.", lambda it: it.failures),
    "lariba_task_rows_total": ("Rows done; docs/maintenance.md says what a row is.", lambda it: it.rows_done),
    "lariba_task_seconds_total": ("Time of all runs together.", lambda it: it.seconds_total),
}


class StatusMetrics:
    """A collector of prometheus_client. Reads at most once in five seconds, and waits 1.5 seconds for PostgreSQL."""

    def __init__(self, database: Database, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._mutex = threading.Lock()
        self._status: SystemStatus | None = None
        self._fresh_until = float("-inf")

    def collect(self) -> Iterator[Metric]:
        system = self._read()
        yield GaugeMetricFamily(*_UP, value=system is not None)
        for name, (says, value_of) in _POLICIES.items():
            yield GaugeMetricFamily(name, says, value=value_of(self._settings))
        if system is not None:
            yield from _status_metrics(system)

    def _read(self) -> SystemStatus | None:
        """None if PostgreSQL is away. Concurrent scrapes wait for one read and share its result."""
        with self._mutex:
            if self._clock() >= self._fresh_until:
                try:
                    self._status = read_system_status(self._database)
                except (StorageUnavailable, SQLAlchemyError) as error:
                    _log.warning("upkeep_unreadable", cause=type(error.__cause__ or error).__name__)
                    self._status = None
                self._fresh_until = self._clock() + _FRESH_SECONDS
            return self._status


def described() -> dict[str, str]:
    """The help text of each metric of this file, by name."""
    return dict([_UP]) | {
        name: entry[0] for table in (_POLICIES, _STATUS, _OF_TASKS, _COUNTED_OF_TASKS) for name, entry in table.items()
    }


def _status_metrics(system: SystemStatus) -> Iterator[Metric]:
    for name, (says, value_of) in _STATUS.items():
        if (value := value_of(system)) is not None:
            yield GaugeMetricFamily(name, says, value=value)
    for family, table in ((GaugeMetricFamily, _OF_TASKS), (CounterMetricFamily, _COUNTED_OF_TASKS)):
        for name, (says, of_task) in table.items():
            metric = family(name, says, labels=["task"])
            for task in system.tasks:
                if (value := of_task(task)) is not None:
                    metric.add_metric([task.name], value)
            yield metric


def _timestamp(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
