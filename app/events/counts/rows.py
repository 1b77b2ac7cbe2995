"""Which stored rows have to be read to count events, in statements of at most eight days each."""

from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import Select, SelectBase, func, literal, select, true

from app.events.counts.groups import Grouping
from app.events.counts.rollup import MOMENTS
from app.events.query.nodes import Node
from app.events.query.sql import condition
from app.events.ranges import TimeRange
from app.events.segments import Part
from app.events.statements import DAYS_AT_ONCE
from app.events.view import EVENTS

HOUR: Final = timedelta(hours=1)


def hour_of(moment: datetime) -> datetime:
    """The start of the hour (UTC) that it lies in."""
    return moment.replace(minute=0, second=0, microsecond=0)


def whole_hours(within: TimeRange) -> TimeRange:
    """The hours that lie in a range entirely; of a range without any, an empty or reversed one."""
    begin = hour_of(within.begin)
    return TimeRange(begin if begin == within.begin else begin + HOUR, hour_of(within.end))


def touched_hours(within: TimeRange) -> TimeRange:
    """The hours of which some part lies in a range."""
    end = hour_of(within.end)
    return TimeRange(hour_of(within.begin), end if end == within.end else end + HOUR)


def cut_hours(within: TimeRange, starts: Iterable[datetime]) -> set[datetime]:
    """The hours that have to be read, because the range begins or ends in them, or a bucket does."""
    borders = (within.begin, within.end, *(start for start in starts if start > within.begin))
    return {hour_of(border) for border in borders if border != hour_of(border)}


def spans_of(hours: Collection[datetime], within: TimeRange) -> list[TimeRange]:
    """What lies in these hours and in the range, as few pieces as possible, the earliest first."""
    spans: list[TimeRange] = []
    for hour in sorted(hours):
        begin, end = max(hour, within.begin), min(hour + HOUR, within.end)
        if spans and spans[-1].end == begin:
            spans[-1] = TimeRange(spans[-1].begin, end)
        elif begin < end:
            spans.append(TimeRange(begin, end))
    return spans


def windows_of(spans: Iterable[TimeRange]) -> Iterator[list[TimeRange]]:
    """The spans, so many together as one statement may read, cut where they are longer than it may reach."""
    window: list[TimeRange] = []
    limit = datetime.max.replace(tzinfo=UTC)
    for span in spans:
        rest = span
        while rest.begin < rest.end:
            if window and rest.begin >= limit:
                yield window
                window = []
            if not window:
                limit = datetime.combine(rest.begin.date(), time.min, UTC) + timedelta(days=DAYS_AT_ONCE)
            window.append(TimeRange(rest.begin, min(rest.end, limit)))
            rest = TimeRange(window[-1].end, rest.end)
    if window:
        yield window


class Source(NamedTuple):
    """What is to be summed: when matches were received, and their groups."""

    days: Collection[date]
    """Of events that the statement touches."""
    statement: SelectBase


def rows_in(project_row: int, window: list[TimeRange], node: Node, grouping: Grouping) -> Source:
    """The matches in the spans of a window."""
    whole = TimeRange(window[0].begin, window[-1].end)
    if len(window) == 1:
        return Source(whole.days(), grouping.grouped(_matches(project_row, whole, node, grouping)))
    # Each span is looked for by itself, along the primary key. The bounds of the window are for the plan, which names
    # the partitions before it knows a span.
    spans = select(
        func.unnest(literal([span.begin for span in window], MOMENTS)).label("begins"),
        func.unnest(literal([span.end for span in window], MOMENTS)).label("ends"),
    ).subquery("span")
    within_span = _matches(project_row, whole, node, grouping).where(
        EVENTS.c.received_at >= spans.c.begins, EVENTS.c.received_at < spans.c.ends
    )
    found = within_span.offset(0).lateral("found")
    return Source(whole.days(), grouping.grouped(select(*found.c).select_from(spans.join(found, true()))))


def rows_of_part(part: Part, project_row: int, within: TimeRange, node: Node, grouping: Grouping) -> Iterator[Source]:
    """The same of what can match by the skip index; more than one statement if a segment is longer than eight days."""
    both = TimeRange(max(part.range.begin, within.begin), min(part.range.end, within.end))
    for window in both.windows():
        matches = _matches(project_row, window, node, grouping).where(part.condition)
        yield Source(window.days(), grouping.grouped(matches))


def _matches(project_row: int, within: TimeRange, node: Node, grouping: Grouping) -> Select[Any]:
    return select(EVENTS.c.received_at.label("at"), *grouping.read_of(EVENTS)).where(
        EVENTS.c.project_id == project_row,
        EVENTS.c.received_at >= within.begin,
        EVENTS.c.received_at < within.end,
        condition(node, EVENTS.c),
    )
