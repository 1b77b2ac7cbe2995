"""The groups of events that ingest has begun to store and not yet committed.

Each holds an advisory lock that says when it began (app/database/sql/store_events.sql, step 2): its moment of receipt
is not earlier.
"""

from datetime import datetime, timedelta
from typing import Final

from app.database.owner import Connection

_CLOCK: Final = "SELECT clock_timestamp()"
_OLDEST: Final = """
    SELECT to_timestamp((min(classid::bigint << 32 | objid::bigint) - x'6c75000000000000'::bigint) / 1000.0)
    FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND classid::bigint << 32 BETWEEN x'6c75000000000000'::bigint AND x'6c75ffffffffffff'::bigint
"""
_AHEAD: Final = timedelta(hours=1)


def oldest_unfinished(connection: Connection) -> datetime | None:
    """When the oldest group that is under way began; None if there is none."""
    found = connection.execute(_OLDEST).fetchone()
    return found[0] if found else None


def complete_until(connection: Connection, begin: datetime, end: datetime) -> datetime:
    """Up to where all events that were received from `begin` to `end` are visible to the next statement, or never are.

    The clock is read before the locks: a group that is not among them begins later. Nothing is received right now on a
    day far ahead, whose events came while the clock was wrong.
    """
    now: datetime = connection.execute(_CLOCK).fetchall()[0][0]
    if begin > now + _AHEAD:
        return end
    return min(end, now, oldest_unfinished(connection) or end)
