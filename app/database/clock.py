"""The two clocks: PostgreSQL's, which decides, and that of this process's machine, which is compared with it.

Nothing is received, ended or dropped by a machine's clock alone (docs/decisions/0014). What deletes goes by the earlier
of the two, and not at all if they are too far apart.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.database.engine import Database, TenantScope

SKEW_MAX: Final = timedelta(minutes=5)
"""How far two clocks may be apart. Machines that synchronise their time are within a second."""

_NOW: Final = text("SELECT clock_timestamp()")


class ClockSkewError(Exception):
    """The machine's clock and PostgreSQL's are too far apart to delete by them; the message says how far."""


class Clocks(NamedTuple):
    """One moment by both clocks, in UTC."""

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
        """The moment to delete by. Raises ClockSkewError: one of the two is wrong, and neither says which."""
        if self.is_skewed:
            raise ClockSkewError(f"nothing is deleted while this machine's clock is {self.describe_skew()}")
        return min(self.database, self.own)


OwnClock = Callable[[], datetime]
"""Returns the moment by the machine's clock."""


def own_now() -> datetime:
    """The machine's clock, to be compared with PostgreSQL's and for nothing else."""
    return datetime.now(UTC)


def read_clocks_in(session: Session, own_clock: OwnClock = own_now) -> Clocks:
    """Both clocks; at the most as far apart as the query takes."""
    database: datetime = session.execute(_NOW).scalar_one()
    return Clocks(database, own_clock())


def read_clocks(database: Database, own_clock: OwnClock = own_now) -> Clocks:
    """As read_clocks_in, in a transaction of its own. Raises StorageUnavailable."""
    with database.transaction(TenantScope.NONE) as session:
        return read_clocks_in(session, own_clock)
