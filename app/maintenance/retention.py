"""Takes away what has been kept long enough: whole days by dropping their partitions, and single workspaces' events.

Days are whole days in UTC. With a retention of 7 days, what came in today and on the seven days before it is there.
`now` is the earlier of two clocks (Shift.deletes_by). Both may be wrong, so a run takes a few days at the most.
"""

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog
from psycopg import errors, sql

from app.database.owner import Connection, Owner
from app.maintenance.blockers import in_short_tries
from app.maintenance.export import ExportError, content_of, export_partition
from app.maintenance.partitions import Partition, attached_partitions
from app.maintenance.purge import BATCH_ROWS, RESTS
from app.maintenance.runs import Clock, Done, in_batches, never

_log = structlog.get_logger()

DAYS_MAX: Final = 7
"""How many days one run takes from, the oldest. Runs come every hour, so a worker that was away for a month has caught
up in five; and if all clocks have jumped by a year, a week is gone when somebody is alarmed, and not the year."""
# Of workspaces whose own retention is over for a day. Few have one, and the primary key begins with the project.
_SHORT_LIVED: Final = """
    SELECT coalesce(array_agg(projects.id), '{}')
    FROM workspaces JOIN projects ON projects.workspace_id = workspaces.id
    WHERE workspaces.retention_days < %s
"""


def first_kept_day(now: datetime, days: int) -> date:
    """The oldest day (UTC) that a retention of `days` keeps: today at the latest."""
    return now.date() - timedelta(days=max(0, days))


def drop_old_partitions(
    owner: Owner, *, now: datetime, days: int | None, export_folder: Path | None = None, is_over: Clock = never
) -> Done:
    """Drop the days that a retention of `days` does not keep, the oldest DAYS_MAX of them; None keeps all.

    With a folder, each is exported into it before, and dropped only if the file was read again and holds what the table
    holds at the moment of the drop. Raises OSError and ExportError: then the day stays, and is tried again.
    """
    dropped = 0
    if days is None:
        return Done(0)
    with owner.locked() as connection:
        old = [each for each in attached_partitions(connection) if each.day < first_kept_day(now, days)]
        for partition in old[:DAYS_MAX]:
            if is_over():
                return Done(dropped, has_more=True)
            dropped += _drop(connection, partition, export_folder)
    return Done(dropped)


def _drop(connection: Connection, partition: Partition, export_folder: Path | None) -> int:
    """1, or 0 if somebody else has dropped it meanwhile."""
    try:
        exported = None if export_folder is None else export_partition(connection, partition, export_folder)
        with connection.transaction():
            # Nothing comes or goes from here to the drop; readers go on.
            connection.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(partition.table))
            if exported is not None and content_of(connection, partition) != exported:
                raise ExportError(f"{partition.name} is not what was exported: it has changed meanwhile")
            in_short_tries(connection, ["events", partition.name], lambda: _detach_and_drop(connection, partition))
    except errors.UndefinedTable:
        return 0
    _log.info("events_dropped", partition=partition.name, exported=None if exported is None else exported.rows)
    return 1


def _detach_and_drop(connection: Connection, partition: Partition) -> None:
    """Waits for all who read events, and those who want to read or write them wait behind it."""
    connection.execute(sql.SQL("ALTER TABLE events DETACH PARTITION {}").format(partition.table))
    connection.execute(sql.SQL("DROP TABLE {}").format(partition.table))


def delete_expired_events(owner: Owner, *, now: datetime, is_over: Clock = never, batch_rows: int = BATCH_ROWS) -> Done:
    """Delete the events of workspaces that keep theirs shorter than the installation does; returns how many.

    From DAYS_MAX days at the most, the oldest first.
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
                return Done(deleted, has_more=done.has_more)
    return Done(deleted)


def _delete(connection: Connection, partition: Partition, projects: list[int], batch_rows: int, is_over: Clock) -> Done:
    """In short transactions, by the primary key. Events never change, so a place (ctid) that was read holds."""
    if not projects:
        return Done(0)
    statement = sql.SQL(
        "DELETE FROM {0} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {0} WHERE project_id = ANY (%s) LIMIT %s))"
    ).format(partition.table)
    try:
        return in_batches(
            lambda: connection.execute(statement, [projects, batch_rows]).rowcount, batch_rows, is_over, rests=RESTS
        )
    except errors.UndefinedTable:
        # Dropped meanwhile, and all of it with it.
        return Done(0)
