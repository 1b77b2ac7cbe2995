"""The system status as metrics, read at a scrape: backlogs, partitions, tasks, and whether PostgreSQL is up."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final, get_type_hints

import structlog
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from app.config import Settings
from app.database.engine import Database
from app.errors import StorageUnavailable
from app.monitoring.consumer_status import ConsumerStatus
from app.monitoring.system_status import SystemStatus, TaskStatus, read_system_status

_log = structlog.get_logger()

# However many scrapes there are, PostgreSQL is asked once in five seconds, also while it is away.
_FRESH_SECONDS: Final = 5.0
_DAY_SECONDS: Final = 86_400

_UP: Final = ("lariba_database_up", "Whether PostgreSQL answered in time; at 0 all that it knows is missing.")
_RETENTION: Final = (
    "lariba_event_retention_seconds",
    "How long events are to be kept (LARIBA_RETENTION_DAYS); +Inf: for ever.",
)
_AHEAD_WANTED: Final = (
    "lariba_event_partitions_ahead_wanted_seconds",
    "How far ahead partitions are to be made (LARIBA_PARTITIONS_AHEAD_DAYS).",
)


def _described(status: type[SystemStatus | TaskStatus | ConsumerStatus]) -> dict[str, tuple[str, str]]:
    """Help text and attribute by metric."""
    hints = get_type_hints(status, include_extras=True).items()
    return {it.name: (it.says, attribute) for attribute, hint in hints for it in getattr(hint, "__metadata__", ())}


_OF_SYSTEM: Final = _described(SystemStatus)
_OF_TASK: Final = _described(TaskStatus)
_OF_CONSUMERS: Final = _described(ConsumerStatus)


class StatusMetrics(Collector):
    """Reads the system status at most once in five seconds, and waits 1.5 seconds for PostgreSQL."""

    def __init__(self, database: Database, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._mutex = threading.Lock()
        self._status: SystemStatus | None = None
        self._fresh_until = float("-inf")

    def collect(self) -> Iterator[Metric]:
        system = self._read()
        days = self._settings.retention_days
        yield GaugeMetricFamily(*_UP, value=system is not None)
        yield GaugeMetricFamily(*_RETENTION, value=float("inf") if days is None else days * _DAY_SECONDS)
        yield GaugeMetricFamily(*_AHEAD_WANTED, value=self._settings.partitions_ahead_days * _DAY_SECONDS)
        if system is not None:
            yield from _metrics_of(system)

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
    read = _OF_SYSTEM | _OF_TASK | _OF_CONSUMERS
    return dict((_UP, _RETENTION, _AHEAD_WANTED)) | {name: says for name, (says, _) in read.items()}


def _metrics_of(system: SystemStatus) -> Iterator[Metric]:
    for name, (says, attribute) in _OF_SYSTEM.items():
        if (value := _number(getattr(system, attribute))) is not None:
            yield _family_of(name)(name, says, value=value)
    if system.consumers is not None:
        for name, (says, attribute) in _OF_CONSUMERS.items():
            yield GaugeMetricFamily(name, says, value=getattr(system.consumers, attribute))
    for name, (says, attribute) in _OF_TASK.items():
        family = _family_of(name)(name, says, labels=["task"])
        for task in system.tasks:
            if (value := _number(getattr(task, attribute))) is not None:
                family.add_metric([task.name], value)
        yield family


def _family_of(name: str) -> type[CounterMetricFamily | GaugeMetricFamily]:
    return CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily


def _number(value: Any) -> float | None:
    """A moment as its Unix time."""
    return value.timestamp() if isinstance(value, datetime) else value
