"""Tells PostgreSQL's planner how many events a day holds, as soon as that has doubled.

A day that has just begun has no statistics until autovacuum comes by, up to a minute later on a quiet server and much
later on a busy one. Meanwhile the planner expects a handful of rows: searches, followers and the skip index sort all
that a project has stored since midnight, and read it for each page.
"""

from typing import Final

from psycopg import sql

from app.database.owner import Owner
from app.maintenance.partitions import attached_partitions
from app.maintenance.task import StopCheck, TaskResult, never

# Half a megabyte; less is read as fast by any plan.
_PAGES_MIN: Final = 64
_GREW: Final = """
    SELECT relname FROM pg_class WHERE relname = ANY (%(names)s) AND relnamespace = current_schema()::regnamespace
        AND pg_relation_size(oid) / current_setting('block_size')::integer > greatest(2 * relpages, %(pages)s)
"""
# Of the columns by which events are found: a sample takes a twentieth of a second, and ten times that with payloads,
# which are left to autovacuum. It is skipped where autovacuum is at it.
_ANALYZE: Final = sql.SQL("ANALYZE (SKIP_LOCKED) {} (project_id, received_at, event_uid, position, workspace_id)")


def analyze_grown_days(owner: Owner, *, is_over: StopCheck = never) -> TaskResult:
    """Analyze each day of events that has doubled since it was analyzed or vacuumed; returns how many.

    Raises StorageUnavailable and NotTheOwnerError.
    """
    analyzed = 0
    with owner.connection() as connection:
        names = [each.name for each in attached_partitions(connection)]
        for (name,) in connection.execute(_GREW, {"names": names, "pages": _PAGES_MIN}).fetchall():
            if is_over():
                return TaskResult(analyzed, has_more=True)
            connection.execute(_ANALYZE.format(sql.Identifier(name)))
            analyzed += 1
    return TaskResult(analyzed)
