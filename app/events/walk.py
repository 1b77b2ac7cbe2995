"""Walks a project's events from the newest to the oldest, until enough matches are found or time is over.

PostgreSQL's statistics choose badly for what is rare: a walk in order for a value that does not exist reads everything.
So the steps are decided here:

1. Read some hundred or thousand events in order through the filter. What is common is found among them. If they say
   that enough matches are not far, read on to there, unless the query is one by type, severity and the like.
2. Otherwise ask the skip index which segments can hold a match, and, of a query by type, severity, source, key or
   environment, which of their events. Read those, the newest first, and what no segment holds yet. What is rare is
   found so, or is known to be nowhere.
3. A query of which the skip index knows nothing, or too much, goes on in order.

Each statement touches a bounded number of days and rows, and gives back a bounded number of bytes. A walk that is out
of time says up to where it has looked.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import DateTime, Row, Select, Uuid, func, literal, or_, select, tuple_

from app.events.kinds import parts_by_kind
from app.events.query.bounds import upper_bound
from app.events.query.nodes import EVERYTHING, Node
from app.events.query.sql import condition
from app.events.query.tokens import tokens
from app.events.ranges import TimeRange
from app.events.segments import (
    SEGMENTS,
    Part,
    indexed_parts,
    merged,
    newest_position,
    segments_in,
    segments_with,
    unsegmented_parts,
)
from app.events.transactions import FewDays
from app.events.view import EVENTS, PAGE_BYTES, columns_of
from app.models.event_index import SEGMENT_EVENTS

_FIRST_ROWS: Final = 5_000
"""Some milliseconds of PostgreSQL: half a microsecond a row, or two for words."""
_FIRST_ROWS_BY_KIND: Final = 500
"""What is not among so many the skip index finds as soon."""
_NEAR_ROWS: Final = 50_000
"""How far enough matches may be to be read in order. Segments that hold what is not rare are read no faster."""
_NEAR_SECONDS: Final = 0.3
"""And how long reading them may take. From a disk a row takes a hundred times as long as from memory."""
_CHUNK_ROWS: Final = 5_000
_CHUNK_ROWS_MAX: Final = 8_000
"""A second, if all of them come from a disk after those before came from memory."""
_CHUNK_SECONDS: Final = 0.2
"""Chunks that take longer do not grow any more."""
_UNSEGMENTED_ROWS_MAX: Final = 50_000
"""Beyond so many the worker has not been there for long, and the walk goes on in order."""
_LOWEST_UID: Final = UUID(int=0)
_MICROSECOND: Final = timedelta(microseconds=1)


class Key(NamedTuple):
    """Where an event stands between the newest and the oldest."""

    received_at: datetime
    event_uid: UUID

    @classmethod
    def before(cls, moment: datetime) -> "Key":
        """Above all that was received before `moment`."""
        return cls(moment, _LOWEST_UID)


def key_of(row: Row[Any]) -> Key:
    return Key(row.received_at, row.event_uid)


@dataclass(slots=True, kw_only=True)
class Walk:
    """A walk over the events of a project below `upper` that were received at `begin` or later."""

    transactions: FewDays
    project_row: int
    node: Node
    """With its names resolved."""
    begin: datetime
    upper: Key
    limit: int
    until: float
    """time.monotonic() seconds."""
    found: list[Row[Any]] = field(default_factory=list)
    """The matches, the newest first: all that are not below `upper`, and `limit` at the most."""
    has_enough: bool = False
    """Whether `limit` matches are found, or fewer whose payloads take PAGE_BYTES."""

    def run(self) -> None:
        """Look for matches. Afterwards it `is_over`, or time is: then all down to `upper` is looked through."""
        kinds, began = upper_bound(self.node), time.monotonic()
        is_by_kind = kinds != EVERYTHING
        if not self.is_over:
            self._read_in_order(_FIRST_ROWS_BY_KIND if is_by_kind else _FIRST_ROWS)
        near = 0 if is_by_kind or self.is_over else self._rows_to_enough(time.monotonic() - began)
        for rows in range(near, 0, -_CHUNK_ROWS_MAX):
            self._read_in_order(min(rows, _CHUNK_ROWS_MAX))
            if self.is_over or self._is_late:
                break
        if not self.is_over and (parts := self._parts_by_kind(kinds) if is_by_kind else self._parts()) is not None:
            self._read_parts(parts)
        rows, began = _CHUNK_ROWS, time.monotonic()
        while not self.is_over and not self._is_late:
            self._read_in_order(rows)
            # No statement may take seconds.
            took, began = time.monotonic() - began, time.monotonic()
            rows = min(rows * 2, _CHUNK_ROWS_MAX) if took < _CHUNK_SECONDS else max(rows // 2, _CHUNK_ROWS)

    @property
    def is_over(self) -> bool:
        """Whether enough was found, or all was looked through."""
        return self.has_enough or self.is_at_end

    @property
    def is_at_end(self) -> bool:
        """Whether all was looked through."""
        return self.upper <= Key.before(self.begin)

    @property
    def _is_late(self) -> bool:
        return time.monotonic() >= self.until

    @property
    def _rest(self) -> TimeRange:
        """What is still to be looked through."""
        is_shared = self.upper.event_uid > _LOWEST_UID
        return TimeRange(self.begin, self.upper.received_at + is_shared * _MICROSECOND)

    @property
    def _missing(self) -> int:
        return self.limit - len(self.found)

    def _rows_to_enough(self, took: float) -> int:
        """In how many rows enough matches are likely to be, if they are as frequent as in the first ones, which took so
        many seconds; 0: in too many.
        """
        rows = round(1.5 * self._missing * _FIRST_ROWS / len(self.found)) if self.found else 0
        return rows if rows <= _NEAR_ROWS and rows * took <= _NEAR_SECONDS * _FIRST_ROWS else 0

    def _read_in_order(self, rows: int) -> None:
        """Judge the next events in order, so many or those of eight days."""
        window = next(self._rest.windows())
        read, is_cut = self._execute(self._numbered_matches(window, rows), window)
        self.found += [row for row in read if row.matches][: self._missing]
        self.has_enough = is_cut or not self._missing
        if not self._missing:
            self.upper = key_of(self.found[-1])
        elif is_cut or (read and read[-1].number == rows):
            self.upper = key_of(read[-1])
        else:
            self.upper = Key.before(window.begin)

    def _numbered_matches(self, window: TimeRange, rows: int) -> Select[Any]:
        """The first that match among so many events in order, and the last one of these: all in one snapshot."""
        following = self._in(window).order_by(*_newest_first(EVENTS)).limit(rows).subquery("following")
        number = func.row_number().over(order_by=_newest_first(following)).label("number")
        numbered = select(following, number).subquery("numbered")
        matches = condition(self.node, numbered.c)
        read = columns_of(numbered).add_columns(matches.label("matches"))
        return read.where(or_(matches, numbered.c.number == rows)).limit(self._missing)

    def _execute(self, matches: Select[Any], window: TimeRange) -> tuple[list[Row[Any]], bool]:
        """The newest rows, and whether they are cut short where their payloads take PAGE_BYTES."""
        newest = matches.order_by(*_newest_first(matches.selected_columns)).subquery("newest")
        size = func.octet_length(newest.c.payload_text)
        before = func.sum(size).over(order_by=_newest_first(newest), rows=(None, -1))
        sized = select(newest, size.label("size"), func.coalesce(before, 0).label("before")).subquery("sized")
        few = select(sized).where(sized.c.before < PAGE_BYTES).order_by(*_newest_first(sized))
        rows = list(self.transactions.session(window.days()).execute(few))
        return rows, sum(row.size for row in rows) >= PAGE_BYTES

    def _in(self, window: TimeRange) -> Select[Any]:
        upper = tuple_(literal(self.upper.received_at, DateTime(timezone=True)), literal(self.upper.event_uid, Uuid))
        return select(EVENTS).where(
            EVENTS.c.project_id == self.project_row,
            EVENTS.c.received_at >= window.begin,
            EVENTS.c.received_at < window.end,
            tuple_(EVENTS.c.received_at, EVENTS.c.event_uid) < upper,
        )

    def _parts(self) -> list[Part] | None:
        """Where matches can be, the latest end first; None if the skip index knows nothing or too much."""
        if (wanted := tokens(self.node)) is None:
            return None
        indexed = indexed_parts(self.transactions, self.project_row, wanted, self._rest)
        if indexed is None or any(self._is_large(part) for part in indexed.parts if not part.is_segmented):
            return None
        return indexed.parts

    def _parts_by_kind(self, kinds: Node) -> Iterable[Part] | None:
        session = self.transactions.session
        position = newest_position(session(), self.project_row)
        unsegmented = unsegmented_parts(session(), self._rest, position)
        if any(map(self._is_large, unsegmented)):
            return None
        segments = segments_in(self.project_row, self._rest, position)
        # What is among the first ones is in most segments.
        if not self.found and (wanted := tokens(self.node)) is not None:
            holding = segments_with(self.transactions, self.project_row, wanted, self._rest, position)
            if holding is not None:
                segments = segments.where(SEGMENTS.c.last_position.in_([each.last_position for each in holding]))
        # As frequent as they were among the first ones, of which half a match is none.
        events = self._missing * _FIRST_ROWS_BY_KIND / max(0.5, len(self.found))
        return merged(unsegmented, parts_by_kind(session, segments, kinds, first=round(events / SEGMENT_EVENTS)))

    def _is_large(self, part: Part) -> bool:
        window = self._window(part)
        rows = self._of(part, window).with_only_columns(EVENTS.c.position).limit(_UNSEGMENTED_ROWS_MAX + 1).subquery()
        counted = self.transactions.session(window.days()).execute(select(func.count()).select_from(rows))
        return counted.scalar_one() > _UNSEGMENTED_ROWS_MAX

    def _window(self, part: Part) -> TimeRange:
        return TimeRange(max(part.range.begin, self.begin), min(part.range.end, self._rest.end))

    def _of(self, part: Part, window: TimeRange) -> Select[Any]:
        return self._in(window).where(part.condition)

    def _read_parts(self, parts: Iterable[Part]) -> None:
        """Read them until no later one can hold anything newer than what is found."""
        found, lowest = self.found, Key.before(self.begin)
        for part in parts:
            if lowest.received_at >= part.range.end:
                break
            if self._is_late:
                # What was enough lies below this, at least in part, or this could hold nothing newer.
                self.has_enough, self.upper = False, max(lowest, min(self.upper, Key.before(part.range.end)))
                self.found = [row for row in found if key_of(row) >= self.upper]
                return
            windows = () if part.is_empty else self._window(part).windows()
            for window in windows:
                # The part is chosen by itself (OFFSET), by its positions: together with the order and the limit, the
                # planner hopes to meet matches early, and walks through all that was received between two segments.
                rows = self._of(part, window).offset(0).subquery("part")
                matches = columns_of(rows).where(condition(self.node, rows.c))
                read, is_cut = self._execute(matches.limit(self.limit), window)
                found += read
                if is_cut:
                    # All matches down to there are known, if no other part holds more.
                    self.has_enough, lowest = True, max(lowest, key_of(read[-1]))
            found.sort(key=key_of, reverse=True)
            del found[self.limit :]
            if len(found) == self.limit:
                # Of the last part, too: what is cut off lies below.
                lowest = max(lowest, key_of(found[-1]))
        self.found = [row for row in found if key_of(row) >= lowest]
        self.has_enough = self.has_enough or not self._missing
        self.upper = lowest


def _newest_first(events: Any) -> tuple[Any, Any]:
    """Of a table, a subquery, or columns."""
    columns = getattr(events, "c", events)
    return columns.received_at.desc(), columns.event_uid.desc()
