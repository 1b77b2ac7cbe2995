"""Decides where the events of an answer are counted: in the hourly counts, by the skip index, or row by row."""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

from sqlalchemy import Executable, Row, select, text, union_all

from app.errors import QueryTooBroad
from app.events.counts.groups import Group, Grouping, names_of
from app.events.counts.rollup import Hours, counted_hours, events_by_hour
from app.events.counts.rows import (
    HOUR,
    Source,
    cut_hours,
    rows_in,
    rows_of_part,
    spans_of,
    touched_hours,
    whole_hours,
    windows_of,
)
from app.events.counts.sums import Sum, Sums, shown, summed
from app.events.query.bounds import is_rollup, upper_bound
from app.events.query.nodes import Node
from app.events.query.tokens import tokens
from app.events.ranges import TimeRange
from app.events.segments import Part, indexed_parts
from app.events.transactions import FewDays
from app.management.common.operators import Operator
from app.models.event_index import SEGMENT_EVENTS

ROWS_MAX: Final = 2_000_000
"""How many rows one answer may read: some seconds of PostgreSQL."""
_FEW_SEGMENTS: Final = 50
"""Reading these takes less time than asking the hourly counts of a year whether other hours would do."""
_ENDS: Final = 2
"""How many hours the two ends of a range can cut."""
_TIMEOUT: Final = text("SELECT set_config('statement_timeout', :milliseconds, true)")
_TOO_MANY: Final = (
    "About {:,} events would have to be read one by one, and one request reads {:,}. Give a shorter range, or a filter"
    " by type, source, env, key or severity. By these alone, and in buckets that are whole hours of UTC, any number of"
    " events can be counted."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Counting:
    """What is to be counted."""

    transactions: FewDays
    operator: Operator
    project_row: int
    node: Node
    """With its names resolved."""
    grouping: Grouping
    within: TimeRange
    starts: Sequence[datetime]
    """Of at least one bucket; the first of them is not behind the range's begin."""
    until: float
    """time.monotonic() seconds."""

    def by_bucket(self) -> dict[int, Counter[Group]]:
        """The events of each bucket, counted from 1 on, by group. Raises QueryTooBroad."""
        sources = self._sources()
        sums = Sums([self._sum(source, None) for source in sources])
        grouped_by = self.grouping
        values = {group.value for group in sums.groups() if group.value is not None}
        names = names_of(self.transactions.session(), self.operator, self.project_row, grouped_by, values)
        if not grouped_by.is_none and (incomplete := sums.incomplete_parts()):
            leading = sums.leading(names)
            kept = {group for group in sums.groups() if shown(group, names) in leading}
            for n in incomplete:
                sums.by_part[n] = self._sum(sources[n], kept)
        return sums.by_bucket(names)

    def _sum(self, source: Source, kept: Collection[Group] | None) -> list[Sum]:
        rows = self._run(summed(source.statement, self.starts, self.grouping, kept), source.days)
        return [Sum(row.bucket, Group(row.kind, row.value), row.events) for row in rows]

    def _run(self, statement: Executable, days: Collection[date] = ()) -> Sequence[Row[Any]]:
        """Execute within what is left of the time of all statements together."""
        milliseconds = round((self.until - time.monotonic()) * 1000)
        if milliseconds <= 0:
            raise QueryTooBroad
        session = self.transactions.session(days)
        session.execute(_TIMEOUT, {"milliseconds": str(milliseconds)})
        return session.execute(statement).all()

    def _sources(self) -> list[Source]:
        """What has to be summed, each part in a statement of its own."""
        if is_rollup(self.node) and self.grouping.path is None:
            return self._counted_hours()
        wanted = tokens(self.node)
        indexed = wanted and indexed_parts(self.transactions, self.project_row, wanted, self.within)
        if indexed and indexed.segments <= _FEW_SEGMENTS:
            return self._parts(indexed.parts)
        hours = self._hours_with_events(upper_bound(self.node))
        expected = sum(hours.values())
        if indexed and indexed.segments * SEGMENT_EVENTS <= expected:
            return self._parts(indexed.parts)
        return self._rows(hours, expected)

    def _parts(self, parts: Iterable[Part]) -> list[Source]:
        where = (self.project_row, self.within, self.node, self.grouping)
        return [rows for part in parts for rows in rows_of_part(part, *where)]

    def _counted_hours(self) -> list[Source]:
        """The hours that lie in one bucket each, as they are counted already, and the rows of the others.

        The first rows are read in the statement of the counted hours: most answers take no other.
        """
        whole = whole_hours(self.within)
        cut = cut_hours(self.within, self.starts)
        if len(cut) > _ENDS:
            hours = self._hours_with_events(self.node, only=cut)
            rows = self._rows(hours, sum(hours.values()))
        else:
            rows = self._rows(cut, 0)
        without = {hour for hour in cut if whole.begin <= hour < whole.end}
        if (whole.end - whole.begin) <= len(without) * HOUR:
            return rows
        counted = counted_hours(self._hours(whole, without=without), self.node)
        hourly = select(counted.c.hour.label("at"), counted.c.events, *self.grouping.of_columns(counted.c))
        if not rows:
            return [Source((), hourly)]
        return [Source(rows[0].days, union_all(hourly, rows[0].statement)), *rows[1:]]

    def _rows(self, hours: Collection[datetime], expected: int) -> list[Source]:
        """The rows of these hours, days by days. Raises QueryTooBroad."""
        if expected > ROWS_MAX:
            raise QueryTooBroad(_TOO_MANY.format(expected, ROWS_MAX))
        windows = windows_of(spans_of(hours, self.within))
        return [rows_in(self.project_row, window, self.node, self.grouping) for window in windows]

    def _hours_with_events(self, node: Node, only: Collection[datetime] | None = None) -> dict[datetime, int]:
        """How many events fulfil a query of rolled-up fields, by hour."""
        hours = self._hours(touched_hours(self.within), only=only)
        return {row.hour: int(row.events) for row in self._run(events_by_hour(hours, node))}

    def _hours(self, within: TimeRange, **chosen: Any) -> Hours:
        return Hours(workspace_row=self.operator.workspace_id, project_row=self.project_row, within=within, **chosen)
