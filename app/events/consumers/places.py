"""Where a consumer can be put: at the start, at now, at a moment, or behind a cursor that was once given."""

from datetime import datetime, timedelta
from functools import partial
from typing import Final, NamedTuple

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from app.database.engine import Database
from app.events.feed.cursors import BEGIN, Place, behind_all_of
from app.events.feed.statements import read_days, within
from app.events.statements import DAYS_AT_ONCE, LOOK_UP, reading
from app.events.transactions import FewDays
from app.events.view import EVENTS
from app.wire import rfc3339

START: Final = "start"
NOW: Final = "now"

# Groups that are stored at once can have their positions in another order than their moments. Two groups that are
# further apart than a transaction of ingest lasts cannot.
_DISORDER: Final = timedelta(seconds=5)
_HORIZON: Final = text("SELECT place, moment FROM event_horizon(:workspace)")


class Landing(NamedTuple):
    """A place to be put at, and about when what lies just before it was received; None: unknown."""

    place: Place
    at: datetime | None


AT_START: Final = Landing(BEGIN, None)


def at_now(session: Session, workspace_id: int) -> Landing:
    """Behind all events of the workspace that can be read now."""
    position, moment = session.execute(_HORIZON, {"workspace": workspace_id}).one()
    return Landing(behind_all_of(position), moment)


def moment_in(text_of_place: str) -> datetime | None:
    """The moment that a caller names as a place (RFC 3339, with its offset); None if it names none."""
    try:
        return rfc3339.read_moment(text_of_place, needs_offset=True)
    except ValueError:
        return None


def at_moment(database: Database, workspace_id: int, project_row: int, moment: datetime) -> Landing | None:
    """Before all events of the project that were received at a moment or later; None: there is none.

    Some that were received a few seconds before may be behind the place too. Raises StorageUnavailable.
    """
    received_at = EVENTS.c.received_at
    of_project = EVENTS.c.project_id == project_row
    first = select(received_at).where(of_project, received_at >= moment).order_by(received_at).limit(1)
    with FewDays(partial(reading, database, workspace_id, LOOK_UP)) as transactions:
        days = sorted(day for day in read_days(transactions.session(), 0) if day.ends > moment)
        for begin in range(0, len(days), DAYS_AT_ONCE):
            part = days[begin : begin + DAYS_AT_ONCE]
            since = transactions.session(part).execute(first.where(within(received_at, part))).scalar_one_or_none()
            if since is None:
                continue
            until = since + _DISORDER
            near = [day for day in days if day.begins <= until and day.ends > since]
            lowest = select(func.min(EVENTS.c.position)).where(
                of_project, received_at.between(since, until), within(received_at, near)
            )
            position: int = transactions.session(near).execute(lowest).scalar_one()
            return Landing(behind_all_of(position - 1), moment)
    return None
