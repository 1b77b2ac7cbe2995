"""Makes the daily partitions of events ahead of time; the default partition catches what comes without one."""

from datetime import date

import structlog
from sqlalchemy import text

from app.database import EVERYWHERE, Database

_log = structlog.get_logger()


def make_event_partitions(database: Database, *, first_day: date, days: int) -> int:
    """Make the partitions of `days` days (UTC) from `first_day` on that do not exist yet; returns how many."""
    with database.transaction(EVERYWHERE) as session:
        made: int = session.execute(
            text("SELECT make_event_partitions(:first_day, :days)"), {"first_day": first_day, "days": days}
        ).scalar_one()
    _log.info("event_partitions_made", partitions=made)
    return made
