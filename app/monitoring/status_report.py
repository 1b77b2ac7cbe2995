"""The output of `flask --app wsgi status`: tables for a person, or JSON for a script."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC
from typing import Any

from prometheus_client.metrics_core import Metric

from app.config import Settings
from app.monitoring.health_issues import HealthIssue
from app.monitoring.system_status import ROWS_MAX, SystemStatus, TaskStatus

_Row = tuple[str, ...]


def as_json(system: SystemStatus | None, issues: Sequence[HealthIssue]) -> str:
    """One JSON object: `troubles` (health issues), and `upkeep` (system status) or null; times as RFC 3339."""
    document = {
        "troubles": [issue._asdict() for issue in issues],
        "upkeep": dataclasses.asdict(system) if system else None,
    }
    return json.dumps(document, default=_moment)


def as_tables(system: SystemStatus, settings: Settings, processes: Iterable[Metric]) -> str:
    """The status, its tasks, and what the processes of this machine have counted if they share a folder."""
    tables = [_aligned(_rows_of_status(system, settings)), _aligned(_rows_of_tasks(system))]
    counted = [("process metric", "labels", "value"), *sorted(_rows_of(processes))]
    return "\n\n".join([*tables, *([_aligned(counted)] if len(counted) > 1 else [])])


def _rows_of_status(system: SystemStatus, settings: Settings) -> Iterator[_Row]:
    yield "upkeep", _moment(system.read_at), f"this machine's clock: {system.clock_skew_seconds:+.1f} s"
    yield "usage outbox", _rows(system.outbox_rows), f"the oldest waits for {system.outbox_lag_seconds:.0f} s"
    expired = f"the oldest has been for {system.expired_lag_seconds:.0f} s"
    yield "expired records", _rows(system.expired_rows), expired
    jobs = f"the oldest was asked for {system.oldest_job_seconds:.0f} s ago"
    yield (
        "pending jobs",
        f"{system.pending_jobs}",
        f"{jobs}; one has done nothing for {system.stalled_job_seconds:.0f} s",
    )
    yield "default partition", _rows(system.default_partition_rows), ""
    oldest, newest = (
        f"{day:%Y-%m-%d}" if day else "none" for day in (system.oldest_partition_at, system.newest_partition_at)
    )
    yield "partitions", f"{system.partitions}", f"{oldest} to {newest}; {system.detached_partitions} detached"
    days = system.partitions_ahead_seconds / 86_400
    yield "partitions ahead", f"{days:.1f} days", f"wanted: {settings.partitions_ahead_days}"
    kept = "for ever" if settings.retention_days is None else f"{settings.retention_days} days"
    yield "retention", kept, ""
    yield _row_of_consumers(system)
    if system.frozen_seconds:
        yield "move of a workspace", "waits", f"for {system.frozen_seconds:.0f} s, for its last part"


def _row_of_consumers(system: SystemStatus) -> _Row:
    read = system.consumers
    if read is None:
        return "consumers", "unknown", "it took too long to ask"
    behind = "none is behind"
    if read.furthest_behind is not None:
        behind = f"the furthest behind: {read.furthest_behind}, {read.lag_seconds:.0f} s"
    return "consumers", f"{read.number}", f"{read.idle} idle for a day; {behind}"


def _rows_of_tasks(system: SystemStatus) -> Iterator[_Row]:
    yield "task", "every", "last success", "in a row", "failures", "runs", "rows", "last run"
    for task in system.tasks:
        yield (
            task.name,
            f"{task.every_seconds:.0f} s",
            _success(task),
            str(task.failures_in_a_row),
            str(task.failures),
            str(task.runs),
            str(task.rows_done),
            f"{task.seconds:.2f} s",
        )


def _success(task: TaskStatus) -> str:
    moment = _moment(task.succeeded_at) if task.succeeded_at else "never"
    return f"{moment} (overdue)" if task.is_overdue else moment


def _rows_of(processes: Iterable[Metric]) -> Iterator[_Row]:
    """The samples without those of buckets."""
    for metric in processes:
        for sample in metric.samples:
            if not sample.name.endswith("_bucket"):
                labels = " ".join(f"{name}={value}" for name, value in sample.labels.items())
                yield sample.name, labels, f"{sample.value:g}" if sample.value % 1 else f"{sample.value:.0f}"


def _rows(count: int) -> str:
    return f"{count} rows" if count < ROWS_MAX else f"{ROWS_MAX} rows or more"


def _aligned(rows: Iterable[_Row]) -> str:
    """Each column as wide as its widest cell."""
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table)
    return "\n".join(line.rstrip() for line in lines)


def _moment(moment: Any) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
