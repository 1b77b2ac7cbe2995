"""The system status as PostgreSQL shows it: backlogs, partitions and the runs of tasks.

`/metrics` and `flask --app wsgi status` both read it here. Each number is a sum over all workspaces.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from app.database.clock import Clocks, read_clocks_in
from app.database.engine import Database, TenantScope
from app.jobs.kinds import KINDS
from app.jobs.turns import read_pending
from app.maintenance.event_counts import COUNTS_DIFFER
from app.maintenance.schedule import TASKS
from app.maintenance.task import Task
from app.monitoring.consumer_status import ConsumerStatus, read_consumer_status
from app.monitoring.metric import Metric

ROWS_MAX: Final = 100_000
"""Where counting ends, so that monitoring does not burden an installation with a large backlog."""
_DEADLINE_SECONDS: Final = 1.5
# The next tick makes up for a missed run, and tasks with one lock wait for each other, up to half an hour each.
_OVERDUE_INTERVALS: Final = 3
_OVERDUE_MIN: Final = timedelta(minutes=5)

# The outbox has no index by time. Its rows are folded in about the order in which they were written, so the first rows
# are the oldest; with more than :rows_max rows the age is a lower bound. Only stored events count for it: all others
# stay for two minutes (maintenance/usage.py). The expired records are read by ix_idempotency_records_expires_at.
_BACKLOGS = text("""
    SELECT outbox_rows, outbox_oldest, expired_rows, expired_oldest, detached_partitions
    FROM (
        SELECT count(*) AS outbox_rows,
            min(received_at) FILTER (WHERE outcome = 'stored') AS outbox_oldest
        FROM (SELECT received_at, outcome FROM usage_outbox LIMIT :rows_max) AS first
    ) AS outbox, (
        SELECT count(*) AS expired_rows, min(expires_at) AS expired_oldest
        FROM (
            SELECT expires_at FROM idempotency_records WHERE expires_at <= :now ORDER BY expires_at LIMIT :rows_max
        ) AS first
    ) AS expired, (
        SELECT count(*) AS detached_partitions FROM pg_class
        WHERE relname ~ '^events_[0-9]{8}' AND relkind = 'r' AND NOT relispartition
            AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'events'::regclass)
    ) AS detached
""")
_PARTITIONS = text(r"""
    SELECT bounds[1]::timestamptz AS begins_at, bounds[2]::timestamptz AS ends_at
    FROM pg_inherits
    JOIN pg_class AS partition ON partition.oid = inhrelid
    CROSS JOIN regexp_match(pg_get_expr(relpartbound, partition.oid), 'FROM \(''(.+)''\) TO \(''(.+)''\)') AS bounds
    WHERE inhparent = 'events'::regclass AND bounds IS NOT NULL
    ORDER BY begins_at
""")
_FROZEN = text("SELECT min(frozen_at) FROM workspaces")
_TASKS = text("""
    SELECT name, succeeded_at, failed_at, error, failures_in_a_row, runs, failures, rows_done, seconds, seconds_total
    FROM maintenance_tasks
""")


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskStatus:
    """The runs of one task; zeros for a task that never ran."""

    name: str
    every_seconds: Annotated[float, Metric("lariba_task_interval_seconds", "How often the task is wanted.")]
    succeeded_at: Annotated[
        datetime | None,
        Metric(
            "lariba_task_last_success_timestamp_seconds",
            "When its last good run was over; the task canary proves beat, broker and worker.",
        ),
    ] = None
    failed_at: datetime | None = None
    error: str | None = None
    """Of its last failed run."""
    seconds: Annotated[float, Metric("lariba_task_last_run_seconds", "How long its last run took.")] = 0
    failures_in_a_row: Annotated[int, Metric("lariba_task_failures_in_a_row", "Bad runs since the last good one.")] = 0
    is_overdue: Annotated[
        bool,
        Metric(
            "lariba_task_overdue",
            "1 if its last good run is longer ago than three intervals and than five minutes, or never was.",
        ),
    ]
    runs: Annotated[int, Metric("lariba_task_runs_total", "Runs that began.")] = 0
    failures: Annotated[int, Metric("lariba_task_failures_total", "Runs that failed or were cut off.")] = 0
    rows_done: Annotated[
        int, Metric("lariba_task_rows_total", "Rows done; docs/maintenance.md says what a row is.")
    ] = 0
    seconds_total: Annotated[float, Metric("lariba_task_seconds_total", "Time of all runs together.")] = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemStatus:
    """The state of the installation at one moment. Counts end at ROWS_MAX."""

    read_at: datetime
    """By PostgreSQL's clock, like every moment here."""
    clock_skew_seconds: Annotated[
        float,
        Metric("lariba_clock_skew_seconds", "How far this machine's clock is ahead of PostgreSQL's; negative: behind."),
    ]
    outbox_rows: Annotated[int, Metric("lariba_usage_outbox_rows", "Rows that wait to be folded, 100,000 at the most.")]
    outbox_lag_seconds: Annotated[
        float, Metric("lariba_usage_outbox_lag_seconds", "How long the oldest accepted event has waited to be folded.")
    ]
    expired_rows: Annotated[
        int,
        Metric(
            "lariba_idempotency_records_expired_rows",
            "Idempotency records past their time that are still there, 100,000 at the most.",
        ),
    ]
    expired_lag_seconds: Annotated[
        float,
        Metric("lariba_idempotency_records_expired_lag_seconds", "For how long the oldest of them is past its time."),
    ]
    default_partition_rows: Annotated[
        int,
        Metric(
            "lariba_events_default_rows",
            "Events in the default partition, whose days have none of their own; 100,000 at the most.",
        ),
    ]
    partitions: Annotated[int, Metric("lariba_event_partitions", "Daily partitions of events.")]
    detached_partitions: Annotated[
        int,
        Metric(
            "lariba_event_partitions_detached",
            "Tables of single days that are no partition: a drop or an attachment that did not come to its end.",
        ),
    ]
    oldest_partition_at: Annotated[
        datetime | None,
        Metric("lariba_event_partition_oldest_timestamp_seconds", "The beginning of the oldest partition's day."),
    ]
    newest_partition_at: Annotated[
        datetime | None,
        Metric("lariba_event_partition_newest_timestamp_seconds", "The beginning of the newest partition's day."),
    ]
    partitions_ahead_seconds: Annotated[
        float, Metric("lariba_event_partitions_ahead_seconds", "For how long from now on each day has its partition.")
    ]
    event_counts_corrected: Annotated[
        int,
        Metric(
            "lariba_event_counts_corrected_total",
            "Events by which counts of closed days differed from the events and were corrected: never, if all is well.",
        ),
    ]
    consumers: ConsumerStatus | None
    """None if it could not be read in its time."""
    pending_jobs: Annotated[
        int, Metric("lariba_jobs_pending", "Jobs that wait for their next turn, 100,000 of each kind at the most.")
    ]
    oldest_job_seconds: Annotated[
        float, Metric("lariba_jobs_oldest_pending_seconds", "How long ago the oldest of them was asked for.")
    ]
    stalled_job_seconds: Annotated[
        float,
        Metric("lariba_jobs_stalled_seconds", "For how long that one of them has done nothing which has for longest."),
    ]
    frozen_seconds: Annotated[
        float,
        Metric(
            "lariba_workspaces_frozen_seconds",
            "For how long a workspace has waited for the last part of its move to another cell; 0: none does.",
        ),
    ]
    tasks: tuple[TaskStatus, ...]


def read_system_status(
    database: Database, *, read_clocks: Callable[[Session], Clocks] = read_clocks_in, rows_max: int = ROWS_MAX
) -> SystemStatus:
    """Read it in one transaction of at most 1.5 seconds, and what consumers are behind in another second.

    Raises StorageUnavailable, and SQLAlchemyError if the schema is behind.
    """
    with database.transaction(TenantScope.ALL, deadline_seconds=_DEADLINE_SECONDS) as session:
        clocks = read_clocks(session)
        now = clocks.database
        backlogs = session.execute(_BACKLOGS, {"now": now, "rows_max": rows_max}).one()
        days = session.execute(_PARTITIONS).all()
        default_partition_rows = _count_in_default_partition(session, days, rows_max)
        pending = read_pending(session, KINDS, rows_max)
        frozen_since = session.execute(_FROZEN).scalar_one()
        runs = {row.name: row for row in session.execute(_TASKS)}
    return SystemStatus(
        read_at=now,
        clock_skew_seconds=clocks.skew.total_seconds(),
        outbox_rows=backlogs.outbox_rows,
        outbox_lag_seconds=_seconds_since(backlogs.outbox_oldest, now),
        expired_rows=backlogs.expired_rows,
        expired_lag_seconds=_seconds_since(backlogs.expired_oldest, now),
        default_partition_rows=default_partition_rows,
        partitions=len(days),
        detached_partitions=backlogs.detached_partitions,
        oldest_partition_at=days[0].begins_at if days else None,
        newest_partition_at=days[-1].begins_at if days else None,
        partitions_ahead_seconds=_seconds_ahead(days, now),
        event_counts_corrected=runs[COUNTS_DIFFER].rows_done if COUNTS_DIFFER in runs else 0,
        consumers=read_consumer_status(database, now),
        pending_jobs=pending.jobs,
        oldest_job_seconds=_seconds_since(pending.oldest_at, now),
        stalled_job_seconds=_seconds_since(pending.stalled_since, now),
        frozen_seconds=_seconds_since(frozen_since, now),
        tasks=tuple(_task(task, runs.get(task.name), now) for task in TASKS),
    )


def _count_in_default_partition(session: Session, days: Sequence[Row[Any]], rows_max: int) -> int:
    """Its rows are those of days without a partition; this condition lets PostgreSQL prune all other partitions.

    The app's role cannot read the table by its name, because it has no policies of its own.
    """
    begins = ["-infinity", *(day.ends_at for day in days)]
    ends = [*(day.begins_at for day in days), "infinity"]
    gaps = [(begin, end) for begin, end in zip(begins, ends, strict=True) if begin != end]
    ranges = " OR ".join(f"received_at >= :from_{n} AND received_at < :to_{n}" for n in range(len(gaps)))
    bounds = {f"from_{n}": begin for n, (begin, _) in enumerate(gaps)}
    bounds |= {f"to_{n}": end for n, (_, end) in enumerate(gaps)}
    statement = text(f"SELECT count(*) FROM (SELECT 1 FROM events WHERE {ranges} LIMIT :rows_max) AS first")
    counted: int = session.execute(statement, {**bounds, "rows_max": rows_max}).scalar_one()
    return counted


def _seconds_ahead(days: Sequence[Row[Any]], now: datetime) -> float:
    covered_until = now
    for day in days:
        if day.begins_at <= covered_until < day.ends_at:
            covered_until = day.ends_at
    return (covered_until - now).total_seconds()


def _seconds_since(moment: datetime | None, now: datetime) -> float:
    return 0.0 if moment is None else max(0.0, (now - moment).total_seconds())


def _task(task: Task, row: Row[Any] | None, now: datetime) -> TaskStatus:
    if row is None:
        return TaskStatus(name=task.name, every_seconds=task.every.total_seconds(), is_overdue=True)
    patience = max(_OVERDUE_INTERVALS * task.every, _OVERDUE_MIN)
    return TaskStatus(
        every_seconds=task.every.total_seconds(),
        is_overdue=row.succeeded_at is None or now - row.succeeded_at > patience,
        **row._asdict(),
    )
