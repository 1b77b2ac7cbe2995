"""Marks closed days with the positions of their events, so that a follower looks only into days that it has not read.

event_days_after (app/database/sql/feed.sql) reads the marks. A day without one is read by every follower.
"""

from datetime import date, datetime
from typing import Final

import structlog
from psycopg import errors, sql

from app.database.owner import Connection, Owner
from app.maintenance.partitions import Partition, attached_partitions, first_open_day
from app.maintenance.task import StopCheck, TaskResult, never
from app.maintenance.unfinished import oldest_unfinished

_log = structlog.get_logger()

_MARKED: Final = "SELECT day FROM event_days"
_FORMER_IS_THERE: Final = "SELECT to_regclass('events_default_former') IS NOT NULL"
_FORGET: Final = "DELETE FROM event_days WHERE day = ANY (%s)"
# One look-up for each project and two for its positions, however many events it has. Positions begin at 1: of a day
# without events 0 says that no follower has anything to read in it.
_POSITIONS: Final = sql.SQL("""
    WITH RECURSIVE project AS (
        SELECT min(project_id) AS id FROM {table}
        UNION ALL
        SELECT (SELECT min(project_id) FROM {table} WHERE project_id > id) FROM project WHERE id IS NOT NULL
    )
    SELECT coalesce(min(first), 0), coalesce(max(last), 0)
    FROM project, LATERAL (
        SELECT min(position) AS first, max(position) AS last FROM {table} WHERE project_id = id
    ) AS positions
""")
_LOCK: Final = "LOCK TABLE event_days IN ROW EXCLUSIVE MODE"
_MARK: Final = """
    INSERT INTO event_days (day, first_position, last_position) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING
"""


def mark_closed_days(owner: Owner, *, now: datetime, is_over: StopCheck = never) -> TaskResult:
    """Mark each closed day that has no mark; returns how many marks were made or deleted.

    1. Delete the marks of days that are gone, and of days that are not over: a clock that was ahead has closed them.
    2. Mark the closed days, the oldest first.

    A mark is final, so no event may come into the day after it. CLOSED_AFTER is an hour; PostgreSQL ends a statement of
    ingest after 30 seconds, so an event of that age is one whose commit was suspended. Even that is waited for: the
    group holds a lock that says when it began. What a former default partition still holds may belong to any day.
    Needs no lock: a day that is being dropped waits for this transaction, and takes the mark away after it.
    """
    with owner.connection() as connection:
        # First what is attached, then whether a former default partition is there: it comes with the days.
        attached = attached_partitions(connection)
        marked = {day for (day,) in connection.execute(_MARKED).fetchall()}
        closed = [each for each in attached if each.day < first_open_day(now)]
        wrong = sorted(marked - {each.day for each in closed})
        if wrong:
            connection.execute(_FORGET, [wrong])
        rows = len(wrong)
        if connection.execute(_FORMER_IS_THERE).fetchone() == (True,):
            return TaskResult(rows)
        oldest = oldest_unfinished(connection)
        for partition in closed:
            if partition.day in marked or (oldest is not None and oldest < partition.end):
                continue
            if is_over():
                return TaskResult(rows, has_more=True)
            rows += _mark(connection, partition)
    return TaskResult(rows)


def _mark(connection: Connection, partition: Partition) -> int:
    """1, or 0 if it has been marked or dropped meanwhile."""
    day: date = partition.day
    try:
        # Two statements, because Citus plans no INSERT of what a recursive query finds. The day stays locked between,
        # and who widens marks for what has moved here waits for a mark that was made without it.
        with connection.transaction():
            connection.execute(_LOCK)
            found = connection.execute(_POSITIONS.format(table=partition.table)).fetchone() or (0, 0)
            return connection.execute(_MARK, [day, *found]).rowcount
    except errors.UndefinedTable:
        return 0
