"""The tasks and their intervals. docs/maintenance.md has the same table for operators (a test compares them)."""

from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from app.jobs.kinds import KINDS
from app.jobs.purge import purge_ended_jobs, purge_export_files
from app.jobs.turns import run_jobs
from app.maintenance.default_partition import move_default_partition_rows
from app.maintenance.event_days import mark_closed_days
from app.maintenance.key_life import mark_expired_keys
from app.maintenance.partitions import make_event_partitions
from app.maintenance.purge import purge_expired_records, purge_expired_requests, purge_old_event_ids
from app.maintenance.retention import delete_expired_events, drop_old_partitions
from app.maintenance.search_indexes import index_closed_partitions
from app.maintenance.segments import TASK_NAME as BUILD_EVENT_SEGMENTS
from app.maintenance.segments import build_event_segments
from app.maintenance.statistics import analyze_grown_days
from app.maintenance.task import Task, TaskContext, TaskResult
from app.maintenance.usage import REPEATABLE, fold_usage

# An index or an export of a day of a hundred million events takes minutes and cannot be resumed in its middle.
_LONG_SECONDS: Final = 1_800


def _purge_event_ids(it: TaskContext) -> TaskResult:
    days = it.settings.event_id_days
    return purge_old_event_ids(it.database, now=it.deletes_by(), days=days, is_over=it.is_over)


def _make_event_partitions(it: TaskContext) -> TaskResult:
    days = it.settings.partitions_ahead_days + 1
    return TaskResult(rows=make_event_partitions(it.database, first_day=it.now.date(), days=days))


def _move_default_partition_rows(it: TaskContext) -> TaskResult:
    result = move_default_partition_rows(it.owner, is_over=it.is_over)
    if result.rows and not result.has_more:
        _make_event_partitions(it)  # PostgreSQL makes none beside a default partition that holds their rows
    return result


def _drop_old_partitions(it: TaskContext) -> TaskResult:
    folder = Path(it.settings.export_dir) if it.settings.export_dir else None
    days = it.settings.retention_days
    return drop_old_partitions(it.owner, now=it.deletes_by(), days=days, export_folder=folder, is_over=it.is_over)


def _purge_export_files(it: TaskContext) -> TaskResult:
    if not it.settings.download_dir:
        return TaskResult(0)
    return purge_export_files(it.database, Path(it.settings.download_dir), now=it.deletes_by(), is_over=it.is_over)


_MINUTE: Final = timedelta(minutes=1)
_HOUR: Final = timedelta(hours=1)
# One lock: no two of these tasks work on the same partition, and of three worker processes, one of which may run jobs,
# one stays free for the tasks that are due every few seconds.
_PARTITIONS: Final[dict[str, Any]] = {"every": _HOUR, "seconds": _LONG_SECONDS, "lock": "partitions"}

# Operators know the names from Celery, the metrics and `flask status`.
TASKS: Final = (
    # No work: a run proves that beat sends, the broker carries and a worker consumes.
    Task(name="canary", every=timedelta(seconds=10), work=lambda _: TaskResult(rows=1), is_quiet=True),
    Task(
        name="fold_usage",
        every=timedelta(seconds=5),
        work=lambda it: fold_usage(it.database, repeatable=REPEATABLE, is_over=it.is_over),
    ),
    Task(
        name="purge_idempotency_records",
        every=_MINUTE,
        work=lambda it: purge_expired_records(it.database, now=it.deletes_by(), is_over=it.is_over),
    ),
    Task(
        name="purge_management_requests",
        every=_MINUTE,
        work=lambda it: purge_expired_requests(it.database, now=it.deletes_by(), is_over=it.is_over),
    ),
    Task(name="purge_event_ids", every=_MINUTE, work=_purge_event_ids),
    Task(
        name="mark_expired_keys",
        every=_MINUTE,
        work=lambda it: mark_expired_keys(it.database, now=it.now, is_over=it.is_over),
    ),
    Task(
        name=BUILD_EVENT_SEGMENTS,
        every=timedelta(seconds=10),
        work=lambda it: build_event_segments(it.database, now=it.now, is_over=it.is_over),
        is_quiet=True,
    ),
    Task(
        name="analyze_grown_days",
        every=timedelta(seconds=10),
        work=lambda it: analyze_grown_days(it.owner, is_over=it.is_over),
        is_quiet=True,
    ),
    Task(
        name="mark_closed_days",
        every=_MINUTE,
        work=lambda it: mark_closed_days(it.owner, now=it.deletes_by(), is_over=it.is_over),
    ),
    Task(name="run_jobs", every=timedelta(seconds=5), work=lambda it: run_jobs(KINDS, it), is_quiet=True),
    Task(name="purge_export_files", every=_MINUTE, work=_purge_export_files),
    Task(
        name="purge_ended_jobs",
        every=_HOUR,
        work=lambda it: purge_ended_jobs(it.database, KINDS, now=it.deletes_by(), is_over=it.is_over),
    ),
    Task(name="make_event_partitions", every=_HOUR, work=_make_event_partitions),
    Task(name="settle_stranded_events", work=_move_default_partition_rows, **_PARTITIONS),
    Task(
        name="delete_expired_events",
        work=lambda it: delete_expired_events(it.owner, now=it.deletes_by(), is_over=it.is_over),
        **_PARTITIONS,
    ),
    Task(name="drop_old_partitions", work=_drop_old_partitions, **_PARTITIONS),
    Task(
        name="index_closed_partitions",
        work=lambda it: index_closed_partitions(it.owner, now=it.now, is_over=it.is_over),
        **_PARTITIONS,
    ),
)
