"""The daily partitions of events: made ahead of time, found again, and filled with what came without one.

A missing partition stops no event: the default partition catches it, and the day is put right when it is over.
"""

from datetime import date, datetime, timedelta
from typing import Final, NamedTuple

import structlog
from psycopg import errors, sql
from sqlalchemy import text

from app.database import EVERYWHERE, Database
from app.owner import Connection, Owner

_log = structlog.get_logger()

CLOSED_AFTER: Final = timedelta(hours=1)
"""How long after its end a day may still get events: from a process whose clock is behind, or that was frozen."""

# What stands below `events`, save the default partition and what an operator has attached by hand.
_ATTACHED: Final = """
    SELECT to_date(substr(relname, 8), 'YYYYMMDD') FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'events'::regclass AND relname ~ '^events_[0-9]{8}$' ORDER BY 1
"""
# The default partition is empty but for days of trouble, so no index serves this.
_STRANDED: Final = """
    SELECT DISTINCT (received_at AT TIME ZONE 'UTC')::date FROM events_default WHERE received_at < %s ORDER BY 1
"""


class Partition(NamedTuple):
    """One day (UTC) of events."""

    day: date

    @property
    def name(self) -> str:
        """Its table."""
        return f"events_{self.day:%Y%m%d}"

    @property
    def table(self) -> sql.Identifier:
        return sql.Identifier(self.name)

    @property
    def bounds(self) -> sql.Composed:
        """`FROM (…) TO (…)`, in UTC whatever the session believes."""
        end = self.day + timedelta(days=1)
        return sql.SQL("FROM ({}) TO ({})").format(f"{self.day} 00:00:00+00", f"{end} 00:00:00+00")


def make_event_partitions(database: Database, *, first_day: date, days: int) -> int:
    """Make the partitions of `days` days (UTC) from `first_day` on that do not exist yet; returns how many."""
    with database.transaction(EVERYWHERE) as session:
        made: int = session.execute(
            text("SELECT make_event_partitions(:first_day, :days)"), {"first_day": first_day, "days": days}
        ).scalar_one()
    return made


def attached_partitions(connection: Connection) -> list[Partition]:
    """The days that have a partition, the oldest first."""
    return [Partition(day) for (day,) in connection.execute(_ATTACHED).fetchall()]


def first_open_day(now: datetime) -> date:
    """The first day (UTC) that may still get events; those before it are closed."""
    return (now - CLOSED_AFTER).date()


def settle_stranded_events(owner: Owner, *, now: datetime) -> int:
    """Move the events of closed days out of the default partition into partitions of their own; returns how many.

    Those of a day that is still open stay: its partition could not be attached while more of them come in.
    """
    moved = 0
    with owner.alone() as connection:
        for (day,) in connection.execute(_STRANDED, [first_open_day(now)]).fetchall():
            moved += _settle(connection, Partition(day))
    return moved


def _settle(connection: Connection, partition: Partition) -> int:
    """Readers see the events there or here, never twice and never not at all: it is one transaction.

    Attaching looks once through the default partition, with a lock that stops all who write to it. That is nobody,
    unless today's partition is missing too.
    """
    try:
        with connection.transaction():
            like = "CREATE TABLE {} (LIKE events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)"
            connection.execute(sql.SQL(like).format(partition.table))
            moved = connection.execute(_move_to(partition)).rowcount
            attach = sql.SQL("ALTER TABLE events ATTACH PARTITION {} FOR VALUES {}")
            connection.execute(attach.format(partition.table, partition.bounds))
    except errors.CheckViolation:
        # An event of that day came in after all, from a clock that is far behind. The next run takes it along.
        _log.warning("stranded_events_left", partition=partition.name)
        return 0
    _log.info("stranded_events_settled", partition=partition.name, rows=moved)
    return moved


def _move_to(partition: Partition) -> sql.Composed:
    days = (f"{partition.day} 00:00:00+00", f"{partition.day + timedelta(days=1)} 00:00:00+00")
    return sql.SQL("""
        WITH moved AS (DELETE FROM events_default WHERE received_at >= {} AND received_at < {} RETURNING *)
        INSERT INTO {} SELECT * FROM moved
    """).format(*days, partition.table)
