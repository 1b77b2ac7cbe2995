"""The statements of a feed: how far it may be read, the days that it lies in, and its events in their order.

The order is (position, event_uid), and the index ix_events_position of each day begins with project and position. A
day that is closed knows its lowest position, so the days are read in that order, and the last ones seldom.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Row, Select, and_, func, or_, select, text
from sqlalchemy.orm import Session

from app.events.feed.cursors import Place, behind_all_of
from app.events.view import EVENTS, SHOWN_COLUMNS

_HORIZON: Final = text("SELECT place FROM event_horizon(:workspace)")
# The commit of a transaction that has logged something waits until the log is on disk, with all that was logged before.
# A transaction that only reads logs nothing else. A decoder of the log can tell it by its name.
_MAKE_DURABLE: Final = text("SELECT pg_logical_emit_message(true, 'lariba_horizon', '')")
_DAYS: Final = text("SELECT begins, ends, first_position FROM event_days_after(:after)")


class Day(NamedTuple):
    """A range of received_at, and the lowest position in it: 0 if that is not known yet."""

    begins: datetime
    ends: datetime
    first_position: int


class Key(NamedTuple):
    """What is read of an event before its payload."""

    place: Place
    day: Day
    stored_bytes: int
    """Of the payload, which PostgreSQL may have compressed."""


def read_horizon(session: Session, workspace_id: int) -> int:
    """The position up to which nothing of the workspace can commit any more; events are to be read after it."""
    position: int = session.execute(_HORIZON, {"workspace": workspace_id}).scalar_one()
    return position


def make_durable(session: Session) -> None:
    """Have the horizon that was read before on disk when the session's transaction ends.

    A position that no committed event has may be one that PostgreSQL gives again after a crash, for it does not wait
    for the log before it gives one away. Behind such a place new events would be skipped.
    """
    session.execute(_MAKE_DURABLE)


def read_days(session: Session, after: int) -> list[Day]:
    """The days that can hold events with a higher position, in the order in which they are to be read."""
    return [Day(*row) for row in session.execute(_DAYS, {"after": after})]


def within(received_at: ColumnElement[datetime], days: Iterable[Day]) -> ColumnElement[bool]:
    """The condition from which PostgreSQL knows, when it plans, which partitions it needs."""
    return or_(*(and_(received_at >= day.begins, received_at < day.ends) for day in days))


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a project's events, within some days: those behind one place, and not behind another."""

    project_row: int
    days: list[Day]
    """A statement takes DAYS_AT_ONCE at the most."""
    after: Place
    last: Place

    def keys(self, session: Session, condition: ColumnElement[bool], limit: int) -> list[Key]:
        """The first events that the condition admits, in order."""
        columns = EVENTS.c
        query = (
            select(
                columns.position,
                columns.event_uid,
                columns.received_at,
                func.coalesce(func.pg_column_size(columns.payload), 0),
            )
            .where(self._is_in(), condition)
            .order_by(columns.position, columns.event_uid)
            .limit(limit)
        )
        return [
            Key(Place(position, uid), self._day_of(received_at), size)
            for position, uid, received_at, size in session.execute(query)
        ]

    def scannable(self, session: Session, events: int) -> tuple[int, Place]:
        """How many there are, up to `events`, and where these end."""
        first = select(EVENTS.c.position).where(self._is_in()).order_by(EVENTS.c.position).limit(events).subquery()
        number, position = session.execute(select(func.count(), func.max(first.c.position))).one()
        return number, self.last if number < events else min(self.last, behind_all_of(position))

    def first(self, events: int) -> Select[Any]:
        """The first of them, admitted or not, up to `events`, with all columns."""
        return select(EVENTS).where(self._is_in()).order_by(EVENTS.c.position).limit(events)

    def rows(self, session: Session, condition: ColumnElement[bool]) -> list[Row[Any]]:
        """All events that the condition admits, for shown(), in order."""
        rows = session.execute(SHOWN_COLUMNS.where(self._is_in(), condition)).all()
        return sorted(rows, key=lambda row: Place(row.position, row.event_uid))

    def _is_in(self) -> ColumnElement[bool]:
        position, uid = EVENTS.c.position, EVENTS.c.event_uid
        (after, after_uid), (last, last_uid) = self.after, self.last
        # Written out, since the index holds the position alone: PostgreSQL begins and ends its scan at them.
        return and_(
            EVENTS.c.project_id == self.project_row,
            position >= after,
            position <= last,
            or_(position > after, uid > after_uid),
            or_(position < last, uid <= last_uid),
            within(EVENTS.c.received_at, self.days),
        )

    def _day_of(self, received_at: datetime) -> Day:
        return next(day for day in self.days if day.begins <= received_at < day.ends)
