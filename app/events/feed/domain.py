"""The events of a project in one total order, page after page: none is skipped, and none shown twice.

A position can be read when nothing below it can commit any more: up to the horizon (app/database/sql/feed.sql). That is
read first, and the events in later statements, which see what had been committed by then.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from sqlalchemy import ColumnElement, and_

from app.database.engine import Database
from app.events.feed.cursors import Place, behind_all_of
from app.events.feed.restored import require_existing
from app.events.feed.statements import Day, Key, Stretch, make_durable, read_days, read_horizon
from app.events.names import find_project, known_names
from app.events.query.nodes import EVERYTHING, Node
from app.events.query.resolution import KnownNames, bound
from app.events.query.sql import condition
from app.events.ranges import TimeRange
from app.events.statements import DAYS_AT_ONCE, EXPORT, FEED, QueryClass, reading
from app.events.transactions import FewDays
from app.events.view import EVENTS, PAGE_BYTES, ShownEvent, shown
from app.management.common.operators import Operator

SCANNED_MAX: Final = 5_000
"""How many events a filter judges for one page: some ten milliseconds. The next page goes on behind them."""
# A page that has read days for so long ends before the next one, if it has got on by then.
_SECONDS_MAX: Final = 0.5
# Of each further statement of a page that has used this up: a page over a year has fifty of them.
_SCANNED_MIN: Final = SCANNED_MAX // DAYS_AT_ONCE
# Payloads as they are stored, read by one statement. PostgreSQL compresses to a fiftieth what repeats itself.
_STORED_BYTES_AT_ONCE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Page:
    """Some events in their order, and where the next page begins."""

    project_row: int
    data: list[ShownEvent]
    reached: Place
    is_last: bool
    """Whether there was nothing behind it when it was read."""
    places: Sequence[Place] = ()
    """Of each event."""

    @property
    def payload_bytes(self) -> int:
        return _payload_bytes(self.data)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a feed shows at the most: what was received in a range, up to a position."""

    received: TimeRange
    last_position: int


@dataclass(frozen=True, slots=True)
class Feed:
    """The events of one project that a query admits."""

    project_id: str
    node: Node = EVERYTHING
    bounds: Bounds | None = None
    known: KnownNames | None = None
    """What the names in the query mean; None: what they mean when a page is read."""

    @property
    def is_filtered(self) -> bool:
        return self.node != EVERYTHING or self.bounds is not None

    @property
    def _query_class(self) -> QueryClass:
        # What is bounded is read by the worker, and no request waits for it.
        return FEED if self.bounds is None else EXPORT

    def _end(self, horizon: int) -> Place:
        return behind_all_of(horizon if self.bounds is None else min(horizon, self.bounds.last_position))

    def _days(self, days: list[Day]) -> list[Day]:
        """Those that it lies in."""
        if self.bounds is None:
            return days
        received = self.bounds.received
        return [day for day in days if day.begins < received.end and day.ends > received.begin]

    def _admitted(self, node: Node) -> ColumnElement[bool]:
        """The condition that its query, with its names resolved, and its range are."""
        admitted = condition(node, EVENTS.c)
        if self.bounds is None:
            return admitted
        received = self.bounds.received
        return and_(admitted, EVENTS.c.received_at >= received.begin, EVENTS.c.received_at < received.end)

    def page(self, database: Database, operator: Operator, after: Place | None, limit: int) -> Page:
        """The next events behind `after`; None: behind all that can be read now.

        Raises NotFound, QueryTooBroad, StorageUnavailable, and Conflict for a place of a state that is lost.
        """
        with self.transactions(database, operator.workspace_id) as transactions:
            return self.page_in(transactions, operator, after, limit)

    def transactions(self, database: Database, workspace_id: int) -> FewDays:
        """Those in which a page is read."""
        return FewDays(partial(reading, database, workspace_id, self._query_class))

    def page_in(self, transactions: FewDays, operator: Operator, after: Place | None, limit: int) -> Page:
        """As page(), in transactions()."""
        session = transactions.session()
        project = find_project(session, operator, self.project_id)
        known = self.known or known_names(session, operator, project.id, self.node)
        admitted = self._admitted(bound(self.node, known))
        horizon = read_horizon(session, operator.workspace_id)
        if after is None:
            make_durable(session)
            return Page(project.id, [], behind_all_of(horizon), is_last=True)
        if after.position > horizon:
            require_existing(session, after)
        # A group that is taking its position lowers the horizon, and what has been read lies below it for good.
        end = max(self._end(horizon), behind_all_of(after.position))
        days = self._days(read_days(session, after.position - 1))
        keys, reached = self._keys(transactions, Stretch(project.id, days, after, end), admitted, limit)
        data: list[ShownEvent] = []
        places: list[Place] = []
        for part in _parts(project.id, keys, after):
            session = transactions.session(part.days)
            rows = part.rows(session, admitted)
            data += shown(session, rows)
            places += [Place(row.position, row.event_uid) for row in rows]
            if _payload_bytes(data) >= PAGE_BYTES:
                reached = part.last
                break
        is_last = reached == end
        if is_last and keys and not self.is_filtered:
            # All who have read so far are at one place then, wherever the horizon was for each of them.
            reached = keys[-1].place
        if reached.position > max([after, *places]).position:
            make_durable(transactions.session())
        return Page(project.id, data, reached, is_last, places)

    def _keys(
        self, transactions: FewDays, whole: Stretch, admitted: ColumnElement[bool], limit: int
    ) -> tuple[list[Key], Place]:
        """The first events in order, and the place up to which they are all.

        Each statement reads some days. It is complete up to its last event, if there may be more, and the page is
        complete up to where the first of its statements is.
        """
        found: list[Key] = []
        reached, scannable, days = whole.last, SCANNED_MAX, whole.days
        until = time.monotonic() + _SECONDS_MAX
        while days and days[0].first_position <= reached.position:
            if time.monotonic() > until and days[0].first_position > whole.after.position + 1:
                reached = behind_all_of(days[0].first_position - 1)
                break
            part, days = replace(whole, days=days[:DAYS_AT_ONCE], last=reached), days[DAYS_AT_ONCE:]
            session = transactions.session(part.days)
            if self.is_filtered:
                scanned, reached = part.scannable(session, scannable)
                scannable = max(_SCANNED_MIN, scannable - scanned)
                part = replace(part, last=reached)
            found = sorted(found + part.keys(session, admitted, limit))
            found = [key for key in found if key.place <= reached][:limit]
            if len(found) == limit:
                reached = found[-1].place
        return [key for key in found if key.place <= reached], reached


def _payload_bytes(events: list[ShownEvent]) -> int:
    return sum(len(memoryview(event.payload)) for event in events)


def _parts(project_row: int, keys: list[Key], after: Place) -> Iterator[Stretch]:
    """The events of `keys`, as many at once as one statement may read."""
    days: dict[Day, None] = {}
    stored = 0
    last = after
    for key in keys:
        is_full = stored + key.stored_bytes > _STORED_BYTES_AT_ONCE or len(days | {key.day: None}) > DAYS_AT_ONCE
        if days and is_full:
            yield Stretch(project_row, list(days), after, last)
            days, stored, after = {}, 0, last
        days[key.day] = None
        stored += key.stored_bytes
        last = key.place
    if days:
        yield Stretch(project_row, list(days), after, last)
