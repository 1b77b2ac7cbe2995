"""Drops the partitions of old days, and deletes the old events of workspaces with a shorter retention.

Days are whole days in UTC. With a retention of 7 days, the events of today and of the seven days before it are kept.
`now` is the earlier of two clocks (TaskContext.deletes_by). Both may be wrong, so one run takes few days.
"""

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog
from psycopg import errors, sql

from app.database.owner import Connection, Owner
from app.maintenance.blockers import in_short_tries
from app.maintenance.event_counts import delete_events, forget_counts
from app.maintenance.export import ExportError, content_of, export_partition
from app.maintenance.partitions import Partition, attached_partitions
from app.maintenance.purge import BATCH_ROWS, RESTS
from app.maintenance.task import StopCheck, TaskResult, in_batches, never

_log = structlog.get_logger()

DAYS_MAX: Final = 7
"""How many days one run takes from, the oldest first. Runs come every hour, so a worker that was away for a month
catches up in five; and if all clocks jump by a year, a week is gone when the alert comes, and not the year."""
# The projects of workspaces whose own retention is over for a day: few have one, and the primary key of events begins
# with the project.
_SHORT_LIVED: Final = """
    SELECT coalesce(array_agg(projects.id), '{}')
    FROM workspaces JOIN projects ON projects.workspace_id = workspaces.id
    WHERE workspaces.retention_days < %s AND home IS NULL
"""
_DELETE_SEGMENTS: Final = """
    DELETE FROM event_segments AS segment USING projects JOIN workspaces ON workspaces.id = projects.workspace_id
    WHERE segment.project_id = projects.id AND home IS NULL
        AND segment.ends_at < (%s::date - retention_days)::timestamp AT TIME ZONE 'UTC'
"""


def first_kept_day(now: datetime, days: int) -> date:
    """The oldest day (UTC) that a retention of `days` keeps: today at the latest."""
    return now.date() - timedelta(days=max(0, days))


def drop_old_partitions(
    owner: Owner, *, now: datetime, days: int | None, export_folder: Path | None = None, is_over: StopCheck = never
) -> TaskResult:
    """Drop the days that a retention of `days` does not keep, at most DAYS_MAX, the oldest first; None keeps all.

    For each day:
    1. With a folder, export the day to a file and read the file back.
    2. Lock the table against writes; readers go on.
    3. Compare the table with the file.
    4. Delete the counts and the segments of its events.
    5. Detach and drop the partition.

    Raises OSError and ExportError: then the day stays, and the next run tries again.
    """
    dropped = 0
    if days is None:
        return TaskResult(0)
    with owner.locked() as connection:
        old = [each for each in attached_partitions(connection) if each.day < first_kept_day(now, days)]
        for partition in old[:DAYS_MAX]:
            if is_over():
                return TaskResult(dropped, has_more=True)
            dropped += _drop(connection, partition, export_folder)
    return TaskResult(dropped)


def _drop(connection: Connection, partition: Partition, export_folder: Path | None) -> int:
    """1, or 0 if it has been dropped meanwhile."""
    try:
        exported = None if export_folder is None else export_partition(connection, partition, export_folder)
        with connection.transaction():
            connection.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(partition.table))
            if exported is not None and content_of(connection, partition) != exported:
                raise ExportError(f"{partition.name} is not what was exported: it has changed meanwhile")
            forget_counts(connection, partition)
            in_short_tries(connection, ["events", partition.name], lambda: _detach_and_drop(connection, partition))
    except errors.UndefinedTable:
        return 0
    _log.info("events_dropped", partition=partition.name, exported=None if exported is None else exported.rows)
    return 1


def _detach_and_drop(connection: Connection, partition: Partition) -> None:
    """Waits for all readers of events, and later readers and writers wait behind it."""
    connection.execute(sql.SQL("ALTER TABLE events DETACH PARTITION {}").format(partition.table))
    connection.execute(sql.SQL("DROP TABLE {}").format(partition.table))
    # Only now: it may have been marked until a moment ago, and another table of the day must not find that mark.
    connection.execute("DELETE FROM event_days WHERE day = %s", [partition.day])


def delete_expired_events(
    owner: Owner, *, now: datetime, is_over: StopCheck = never, batch_rows: int = BATCH_ROWS
) -> TaskResult:
    """Delete the events of workspaces whose own retention is shorter than the installation's; returns how many.

    For each day, the oldest first, until DAYS_MAX days have lost events:
    1. Find the projects of the workspaces whose retention is over.
    2. Delete their events in batches, and subtract them from the counts.
    Then delete the segments of these projects that hold no event any more.
    """
    deleted = days = 0
    with owner.locked() as connection:
        for partition in attached_partitions(connection):
            age = (now.date() - partition.day).days
            (projects,) = connection.execute(_SHORT_LIVED, [age]).fetchone() or ([],)
            done = _delete(connection, partition, projects, batch_rows, is_over)
            deleted += done.rows
            days += done.rows > 0
            if done.has_more or days == DAYS_MAX:
                return TaskResult(deleted, has_more=done.has_more)
        connection.execute(_DELETE_SEGMENTS, [now.date()])
    return TaskResult(deleted)


def _delete(
    connection: Connection, partition: Partition, projects: list[int], batch_rows: int, is_over: StopCheck
) -> TaskResult:
    """In short transactions, by the primary key."""
    if not projects:
        return TaskResult(0)
    try:
        return in_batches(
            lambda: delete_events(connection, partition, projects, batch_rows), batch_rows, is_over, rests=RESTS
        )
    except errors.UndefinedTable:
        return TaskResult(0)
