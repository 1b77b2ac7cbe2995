"""Which time it is: PostgreSQL's clock decides, and the clock of this process is held against it.

Nothing is received, ended or dropped by the clock of a process alone: there are as many of those as machines. But a
process can tell how far its own is off, and what deletes asks both.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.database.engine import Database, TenantScope

SKEW_MAX: Final = timedelta(minutes=5)
"""How far two clocks may be apart. Machines that keep time are within a second; one that is minutes off keeps none."""

_NOW: Final = text("SELECT clock_timestamp()")


class ClockSkewError(Exception):
    """This process's clock and PostgreSQL's are too far apart to delete by them; the message says how far."""


class Clocks(NamedTuple):
    """One moment by two clocks, in UTC."""

    database: datetime
    own: datetime
    """Of this process's machine."""

    @property
    def skew(self) -> timedelta:
        """How far the own clock is ahead; negative if it is behind."""
        return self.own - self.database

    @property
    def is_skewed(self) -> bool:
        return abs(self.skew) > SKEW_MAX

    def describe_skew(self) -> str:
        """`400 days, 0:00:00 behind PostgreSQL's`."""
        size = timedelta(seconds=round(abs(self.skew).total_seconds()))
        return f"{size} {'ahead of' if self.skew > timedelta() else 'behind'} PostgreSQL's"

    def earlier(self) -> datetime:
        """The moment to delete by. Raises ClockSkewError: one of the two is wrong, and nobody here knows which."""
        if self.is_skewed:
            raise ClockSkewError(f"nothing is deleted while this machine's clock is {self.describe_skew()}")
        return min(self.database, self.own)


OwnClock = Callable[[], datetime]
"""The clock of a process; tests have one of theirs."""


def own_now() -> datetime:
    """The clock of this process, for what is compared with PostgreSQL's and for nothing else."""
    return datetime.now(UTC)


def read_clocks_in(session: Session, own_clock: OwnClock = own_now) -> Clocks:
    """Both clocks, read at once: as far apart as the question takes at the most."""
    database: datetime = session.execute(_NOW).scalar_one()
    return Clocks(database, own_clock())


def read_clocks(database: Database, own_clock: OwnClock = own_now) -> Clocks:
    """As read_clocks_in, in a transaction of its own. Raises StorageUnavailable."""
    with database.transaction(TenantScope.NONE) as session:
        return read_clocks_in(session, own_clock)
