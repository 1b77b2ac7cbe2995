"""Asks the skip index which events have the type, severity, source, key or environment that a query names.

A segment knows its kinds, which are the combinations of these, and the positions of each kind's events. So what is
neither frequent nor rare is read alone: of two events in a thousand, two rows and not a thousand.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import BigInteger, Integer, Row, Select, Text, case, column, false, func, literal, select, true, tuple_
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from app.events.query.nodes import Node
from app.events.query.sql import condition
from app.events.ranges import TimeRange
from app.events.segments import SEGMENTS, Part, days_of
from app.events.statements import DAYS_AT_ONCE
from app.events.view import EVENTS

# How many segments are looked at together at the most: each takes a tenth of a millisecond.
_PAGE_MAX: Final = 64
# And about how many rows of events one part may have. From a disk, a row takes a tenth of a millisecond.
_ROWS: Final = 4_000
# What EVENTS calls the members of a kind.
_MEMBERS: Final = (
    column("event_type", Text),
    column("severity", Text),
    column("source_id", BigInteger),
    column("source_key_id", BigInteger),
    column("environment_id", BigInteger),
)


def parts_by_kind(session: Callable[[], Session], segments: Select[Any], kinds: Node, first: int) -> Iterator[Part]:
    """Where what fulfils `kinds`, a query of the members of a kind, can be in the segments of segments_in().

    Each part is some segments, the latest end first, of as many days and rows as one statement may touch, but for a
    segment that has more. They are looked at when their parts are asked for, by `session`, the first of them about so
    many together as `first` says.
    """
    following, size = segments, max(1, min(first, _PAGE_MAX))
    while page := session().execute(_positions(following.limit(size), kinds)).all():
        yield from _parts(page)
        last = tuple_(literal(page[-1].ends_at), literal(page[-1].last_position))
        following = segments.where(tuple_(SEGMENTS.c.ends_at, SEGMENTS.c.last_position) < last)
        size = min(2 * size, _PAGE_MAX)


def _positions(page: Select[Any], kinds: Node) -> Select[Any]:
    """Of each segment its bounds, the positions of the events whose kind fulfils the query, and how many rows are read
    for these: all events of a position, of which a batch has one.
    """
    of = page.subquery("segment").c
    members = (of.kind_types, of.kind_severities, of.kind_sources, of.kind_keys, of.kind_environments, of.kind_ends)
    kind = func.unnest(*members).table_valued(*_MEMBERS, column("ends", Integer), with_ordinality="number")
    kind = kind.render_derived("kind")
    begins = func.coalesce(of.kind_ends[kind.c.number - 1], 0) + 1
    fitting = func.unnest(of.event_positions[begins : kind.c.ends]).table_valued("position").render_derived("event")
    positions = (
        select(func.array_agg(fitting.c.position).label("positions"))
        .select_from(kind.join(fitting, true()))
        .where(condition(kinds, kind.c))
        .lateral("fitting")
    )
    read = func.unnest(of.event_positions).table_valued("position").render_derived("read")
    wanted = func.unnest(positions.c.positions).table_valued("position").render_derived("wanted")
    rows = select(func.count()).select_from(read).where(read.c.position.in_(select(wanted.c.position)))
    rows_read = case((positions.c.positions.is_not(None), rows.scalar_subquery()), else_=0).label("rows")
    found = select(of.begins_at, of.ends_at, of.last_position, positions.c.positions, rows_read)
    return found.join(positions, true()).order_by(of.ends_at.desc(), of.last_position.desc())


def _parts(page: Sequence[Row[Any]]) -> Iterator[Part]:
    some: list[Row[Any]] = []
    for row in page:
        few = [*some, row]
        if some and (sum(each.rows for each in few) > _ROWS or days_of(few) > DAYS_AT_ONCE):
            yield _part(some)
            few = [row]
        some = few
    yield _part(some)


def _part(segments: Sequence[Row[Any]]) -> Part:
    ends_at = segments[0].ends_at
    within = TimeRange(min(row.begins_at for row in segments), ends_at + timedelta(microseconds=1))
    positions = sorted({position for row in segments for position in row.positions or ()})
    if not positions:
        return Part(within, false(), is_empty=True)
    return Part(within, EVENTS.c.position == func.any(literal(positions, ARRAY(BigInteger))))
