"""The daily partitions of events: made ahead of time, and listed.

A missing partition refuses no event: the default partition takes it, and default_partition.py moves it.
"""

from datetime import UTC, date, datetime, time, timedelta
from typing import Final, NamedTuple

from psycopg import errors, sql
from sqlalchemy import text

from app.database.engine import Database, TenantScope
from app.database.owner import Connection
from app.errors import StorageUnavailable
from app.maintenance.blockers import holders_in, named

CLOSED_AFTER: Final = timedelta(hours=1)
"""How long after its end a day may still get events, from a statement that was suspended before its commit."""

# The partitions of `events` without the default one and without what an operator has attached by hand.
_ATTACHED: Final = """
    SELECT to_date(substr(relname, 8), 'YYYYMMDD') FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'events'::regclass AND relname ~ '^events_[0-9]{8}$' ORDER BY 1
"""


class Partition(NamedTuple):
    """One day (UTC) of events."""

    day: date

    @property
    def name(self) -> str:
        return f"events_{self.day:%Y%m%d}"

    @property
    def table(self) -> sql.Identifier:
        return sql.Identifier(self.name)

    @property
    def begin(self) -> datetime:
        return datetime.combine(self.day, time.min, UTC)

    @property
    def end(self) -> datetime:
        """The first moment after it."""
        return self.begin + timedelta(days=1)

    @property
    def bounds(self) -> sql.Composed:
        """`FROM (…) TO (…)`."""
        return sql.SQL("FROM ({}) TO ({})").format(self.begin, self.end)


def make_event_partitions(database: Database, *, first_day: date, days: int) -> int:
    """Make the partitions of `days` days (UTC) from `first_day` on that do not exist yet; returns how many.

    Raises LockNotAvailable, naming the sessions that hold the default partition, and the errors of any transaction.
    """
    statement, values = text("SELECT make_event_partitions(:first_day, :days)"), {"first_day": first_day, "days": days}
    try:
        with database.transaction(TenantScope.ALL) as session:
            made: int = session.execute(statement, values).scalar_one()
    except StorageUnavailable as error:
        if getattr(getattr(error.__cause__, "orig", None), "sqlstate", None) != errors.LockNotAvailable.sqlstate:
            raise
        with database.transaction(TenantScope.ALL) as session:
            held = holders_in(session, ["events", "events_default"])
        raise errors.LockNotAvailable(f"events_default: held by {named(held)}") from error
    return made


def attached_partitions(connection: Connection) -> list[Partition]:
    """The days with a partition, the oldest first."""
    return [Partition(day) for (day,) in connection.execute(_ATTACHED).fetchall()]


def first_open_day(now: datetime) -> date:
    """The first day (UTC) that may still get events; those before it are closed."""
    return (now - CLOSED_AFTER).date()
