"""Places beyond all events of this database: it was restored, and knew a later state once."""

from typing import Final

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.errors import Conflict
from app.events.feed.cursors import Place

# The app's role may use the sequence and not read it; this function takes either right.
_LAST_POSITION: Final = text("SELECT pg_sequence_last_value('event_positions')")
_BEYOND: Final = (
    "This place lies beyond all events of this database, which was restored from a backup: events that come would get"
    " places before it and never be shown. Begin again from start or from now: a feed by its cursor, a consumer by a"
    " seek."
)


def require_existing(session: Session, place: Place) -> None:
    """Raises Conflict if no event of this database can have come so far."""
    if is_beyond(session, place):
        raise Conflict(_BEYOND)


def is_beyond(session: Session, place: Place) -> bool:
    """Whether a place lies above the last position that this database has given.

    The horizon would not tell, since a group that is being stored lowers it.
    """
    last: int | None = session.execute(_LAST_POSITION).scalar_one()
    return place.position > (last or 0)
