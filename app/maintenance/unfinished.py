"""Asks, as the owner, for the groups of events that ingest has begun to store and not yet committed."""

from datetime import datetime, timedelta
from typing import Final

from app.database.owner import Connection
from app.database.unfinished import OLDEST_UNFINISHED

_CLOCK: Final = "SELECT clock_timestamp()"
_AHEAD: Final = timedelta(hours=1)


def oldest_unfinished(connection: Connection) -> datetime | None:
    """When the oldest group that is under way began; None if there is none."""
    found = connection.execute(OLDEST_UNFINISHED).fetchone()
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
