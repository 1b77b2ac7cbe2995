"""Followers of feeds find in the new cell what they would have found in the old one (app/database/sql/feed.sql)."""

from datetime import datetime
from typing import Final

from psycopg import sql

from app.cells.moving.tables import Connection, Scope
from app.maintenance.partitions import attached_partitions

# Waits for marks that are being made by who does not see yet what was copied.
_LOCK: Final = "LOCK TABLE event_days IN SHARE ROW EXCLUSIVE MODE"
_MARKED: Final = "SELECT day FROM event_days"
# Two look-ups for each project, however many events it has.
_OF_DAY: Final = sql.SQL("""
    SELECT min(first), max(last) FROM unnest(%s::bigint[]) AS project (id), LATERAL (
        SELECT min(position) AS first, max(position) AS last FROM {table} WHERE project_id = project.id
    ) AS positions
""")
_SINCE: Final = """
    SELECT (received_at AT TIME ZONE 'UTC')::date, min(position), max(position) FROM events
    WHERE project_id = ANY (%s) AND received_at >= %s GROUP BY 1
"""
# Of a day that is closed in the new cell. 0 says that it held no event.
_WIDEN: Final = """
    UPDATE event_days SET last_position = greatest(last_position, %(last)s),
        first_position = least(coalesce(nullif(first_position, 0), %(first)s), %(first)s)
    WHERE day = %(day)s AND (last_position < %(last)s OR first_position = 0 OR first_position > %(first)s)
"""
_LAST: Final = "SELECT last_value FROM event_positions"
# Far enough that no position which another session takes meanwhile lies behind it.
_AHEAD: Final = """
    SELECT setval('event_positions', %(last)s + 1000000) FROM event_positions WHERE last_value <= %(last)s
"""


def widen_days(target: Connection, scope: Scope) -> None:
    """Followers look into each closed day that holds events of the workspace."""
    with target.transaction():
        target.execute(_LOCK)
        marked = {day for (day,) in target.execute(_MARKED).fetchall()}
        for partition in attached_partitions(target):
            if partition.day in marked:
                ((first, last),) = target.execute(
                    _OF_DAY.format(table=partition.table), [list(scope.projects)]
                ).fetchall()
                _widen(target, partition.day, first, last)


def widen_days_since(target: Connection, scope: Scope, since: datetime) -> None:
    """As widen_days(), for what was received since a moment; in the target's current transaction."""
    target.execute(_LOCK)
    for day, first, last in target.execute(_SINCE, [list(scope.projects), since]).fetchall():
        _widen(target, day, first, last)


def pass_positions_of(source: Connection, target: Connection) -> None:
    """What comes in the new cell has a higher position than any place that the old one has shown to a follower.

    A place may be that of neighbours' events: an empty page shows how far all of the cell was read.
    """
    ((last,),) = source.execute(_LAST).fetchall()
    target.execute(_AHEAD, {"last": last})


def _widen(target: Connection, day: object, first: int | None, last: int | None) -> None:
    if first is not None:
        target.execute(_WIDEN, {"day": day, "first": first, "last": last})
