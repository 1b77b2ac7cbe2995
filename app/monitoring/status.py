"""What `flask --app wsgi status` shows: the state of the installation for a person, or as JSON for a script."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from prometheus_client.metrics_core import Metric

from app.config import Settings
from app.monitoring.troubles import Trouble
from app.monitoring.upkeep import ROWS_MAX, TaskUpkeep, Upkeep

_Row = tuple[str, ...]


def as_json(upkeep: Upkeep | None, troubles: Sequence[Trouble]) -> str:
    """One JSON object: `troubles`, and `upkeep` or null; times as RFC 3339."""
    facts = {
        "troubles": [trouble._asdict() for trouble in troubles],
        "upkeep": dataclasses.asdict(upkeep) if upkeep else None,
    }
    return json.dumps(facts, default=_moment)


def as_tables(upkeep: Upkeep, settings: Settings, processes: Iterable[Metric]) -> str:
    """The upkeep, its tasks, and what the processes of this machine have counted if they share a folder."""
    tables = [_aligned(_rows_of_upkeep(upkeep, settings)), _aligned(_rows_of_tasks(upkeep))]
    counted = [("process metric", "labels", "value"), *sorted(_rows_of(processes))]
    return "\n\n".join([*tables, *([_aligned(counted)] if len(counted) > 1 else [])])


def _rows_of_upkeep(upkeep: Upkeep, settings: Settings) -> Iterator[_Row]:
    yield "upkeep", _moment(upkeep.read_at), f"this machine's clock: {upkeep.clock_skew_seconds:+.1f} s"
    yield "usage outbox", _rows(upkeep.outbox_rows), f"the oldest waits for {upkeep.outbox_lag_seconds:.0f} s"
    expired = f"the oldest has been for {upkeep.expired_lag_seconds:.0f} s"
    yield "expired records", _rows(upkeep.expired_rows), expired
    yield "default partition", _rows(upkeep.default_partition_rows), ""
    oldest, newest = (f"{day:%Y-%m-%d}" if day else "none" for day in _span(upkeep))
    yield "partitions", f"{upkeep.partitions}", f"{oldest} to {newest}; {upkeep.detached_partitions} detached"
    days = upkeep.partitions_ahead_seconds / 86_400
    yield "partitions ahead", f"{days:.1f} days", f"wanted: {settings.partitions_ahead_days}"
    kept = "for ever" if settings.retention_days is None else f"{settings.retention_days} days"
    yield "retention", kept, ""


def _span(upkeep: Upkeep) -> tuple[datetime | None, datetime | None]:
    return upkeep.oldest_partition_at, upkeep.newest_partition_at


def _rows_of_tasks(upkeep: Upkeep) -> Iterator[_Row]:
    yield "task", "every", "last success", "in a row", "failures", "runs", "rows", "last run"
    for task in upkeep.tasks:
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


def _success(task: TaskUpkeep) -> str:
    moment = _moment(task.succeeded_at) if task.succeeded_at else "never"
    return f"{moment} (overdue)" if task.is_overdue else moment


def _rows_of(processes: Iterable[Metric]) -> Iterator[_Row]:
    """The samples but for the buckets, which are for machines."""
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
