"""Asks the skip index (event_segments) where a query can have matches."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    MetaData,
    Select,
    Table,
    Text,
    and_,
    func,
    or_,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, array
from sqlalchemy.orm import Session

from app.events.query.tokens import AllOf, AnyOf, Token, Tokens, named_events
from app.events.ranges import TimeRange
from app.events.statements import DAYS_AT_ONCE
from app.events.transactions import FewDays
from app.events.view import EVENTS

SEGMENTS_MAX: Final = 500
"""Beyond so many a walk in order is as good: half a million events hold what is asked for, or some of its words."""
_BATCH: Final = 8
# A view for the reason that EVENTS is one.
SEGMENTS: Final = Table(
    "readable_segments",
    MetaData(),
    Column("project_id", BigInteger),
    Column("first_position", BigInteger),
    Column("last_position", BigInteger),
    Column("begins_at", DateTime(timezone=True)),
    Column("ends_at", DateTime(timezone=True)),
    Column("tokens", ARRAY(Integer)),
    Column("kind_types", ARRAY(Text)),
    Column("kind_severities", ARRAY(Text)),
    Column("kind_sources", ARRAY(BigInteger)),
    Column("kind_keys", ARRAY(BigInteger)),
    Column("kind_environments", ARRAY(BigInteger)),
    Column("kind_ends", ARRAY(Integer)),
    Column("event_positions", ARRAY(BigInteger)),
)
_DAYS: Final = text("SELECT begins, ends FROM event_days_after(:position)")


class Part(NamedTuple):
    """Some of a project's events: what can match, as a condition on EVENTS, and when they were received."""

    range: TimeRange
    condition: ColumnElement[bool]
    is_segmented: bool = True
    is_empty: bool = False
    """Whether nothing in it can match."""


class Segment(NamedTuple):
    first_position: int
    last_position: int
    begins_at: datetime
    ends_at: datetime


class Indexed(NamedTuple):
    """Where matches can be by the skip index."""

    parts: list[Part]
    """The latest end first; each within so many days as one statement may touch, but for a segment that is longer."""
    segments: int
    """How many of them are among the parts."""


def indexed_parts(transactions: FewDays, project_row: int, wanted: Tokens, within: TimeRange) -> Indexed | None:
    """Where matches can be: segments that hold the tokens, and what no segment holds yet; None for too many segments.

    Up to which position segments are there is asked first, and later ones are left out: the events of one that is built
    between two statements would be read twice, or not at all.
    """
    position = newest_position(transactions.session(), project_row)
    segments = segments_with(transactions, project_row, wanted, within, position)
    if segments is None:
        return None
    parts = merged(
        unsegmented_parts(transactions.session(), within, position), sorted(_parts_of(segments), key=_end, reverse=True)
    )
    return Indexed(list(parts), len(segments))


def newest_position(session: Session, project_row: int) -> int:
    """The last position that a segment of the project holds; 0 without any."""
    newest = select(func.coalesce(func.max(SEGMENTS.c.last_position), 0)).where(SEGMENTS.c.project_id == project_row)
    position: int = session.execute(newest).scalar_one()
    return position


def segments_with(
    transactions: FewDays, project_row: int, wanted: Tokens, within: TimeRange, position: int
) -> list[Segment] | None:
    """Those of segments_in() that hold the tokens, or an event of ours that is named; None for more than SEGMENTS_MAX.

    Tokens alone choose in the inner query, which leaves the planner nothing but their index: another one would lead it
    to all tokens of a project's segments, which are thousands each.
    """
    holding = select(SEGMENTS).where(_holds(wanted, project_row)).offset(0).subquery("holding")
    columns = [holding.c[name] for name in Segment._fields]
    query = segments_in(project_row, within, position, holding).with_only_columns(*columns).limit(SEGMENTS_MAX + 1)
    found = [Segment(*row) for row in transactions.session().execute(query)]
    if len(found) > SEGMENTS_MAX:
        return None
    for received_at, event_uid in named_events(wanted):
        if within.begin <= received_at < within.end:
            found += _segment_of(transactions, project_row, received_at, event_uid, position)
    return sorted(set(found), key=_newest_first, reverse=True)


def _segment_of(
    transactions: FewDays, project_row: int, received_at: datetime, event_uid: UUID, position: int
) -> list[Segment]:
    """The segment, up to a position, that holds an event; none if there is no such event or no such segment."""
    of_event = select(EVENTS.c.position).where(
        EVENTS.c.project_id == project_row, EVENTS.c.received_at == received_at, EVENTS.c.event_uid == event_uid
    )
    event = transactions.session({received_at.date()}).execute(of_event).scalar_one_or_none()
    if event is None:
        return []
    following = select(*(SEGMENTS.c[name] for name in Segment._fields)).where(
        SEGMENTS.c.project_id == project_row, SEGMENTS.c.last_position.between(event, position)
    )
    rows = transactions.session().execute(following.order_by(SEGMENTS.c.last_position).limit(1))
    return [Segment(*row) for row in rows]


def segments_in(project_row: int, within: TimeRange, position: int, of: FromClause = SEGMENTS) -> Select[Any]:
    """The segments of a project, up to a position, that reach into a range, the latest end first."""
    in_range = select(of).where(
        of.c.project_id == project_row,
        of.c.last_position <= position,
        of.c.ends_at >= within.begin,
        of.c.begins_at < within.end,
    )
    return in_range.order_by(of.c.ends_at.desc(), of.c.last_position.desc())


def unsegmented_parts(session: Session, within: TimeRange, position: int) -> list[Part]:
    """What no segment up to a position holds, as far as it can lie in a range; the latest end first."""
    days = sorted(session.execute(_DAYS, {"position": position}).all())
    windows = TimeRange(days[0].begins, days[-1].ends).windows() if days else ()
    condition = EVENTS.c.position > position
    return [
        Part(window, condition, is_segmented=False)
        for window in windows
        if window.begin < within.end and window.end > within.begin
    ]


def merged(*parts: Iterable[Part]) -> Iterator[Part]:
    """The parts of some, each with the latest end first, in that order."""
    return heapq.merge(*parts, key=_end, reverse=True)


def _newest_first(segment: Segment) -> tuple[datetime, int]:
    return segment.ends_at, segment.last_position


def _end(part: Part) -> datetime:
    return part.range.end


class Span(NamedTuple):
    """Where events that were received in a range can be, by position: in it, and behind all segments."""

    first: int
    last: int
    """Below `first` if no segment holds any."""
    newest: int
    """The last position that a segment holds."""


def span_of(session: Session, project_row: int, within: TimeRange) -> Span:
    """The span of a range, of segments that are there now."""
    columns = SEGMENTS.c
    is_in_range = and_(columns.ends_at >= within.begin, columns.begins_at < within.end)
    query = select(
        func.min(columns.first_position).filter(is_in_range),
        func.max(columns.last_position).filter(is_in_range),
        func.coalesce(func.max(columns.last_position), 0),
    ).where(columns.project_id == project_row)
    first, last, newest = session.execute(query).one()
    return Span(newest + 1, newest, newest) if first is None else Span(first, last, newest)


def _holds(wanted: Tokens, project_row: int) -> ColumnElement[bool]:
    """One operator for all plain tokens of a level: the index asks for them together."""
    match wanted:
        case Token(word):
            return SEGMENTS.c.tokens.contains(_hashed([word], project_row))
        case AllOf(items):
            words = [item.word for item in items if isinstance(item, Token)]
            others = [_holds(item, project_row) for item in items if not isinstance(item, Token)]
            return and_(*([SEGMENTS.c.tokens.contains(_hashed(words, project_row))] if words else []), *others)
        case AnyOf(items):
            words = [item.word for item in items if isinstance(item, Token)]
            others = [_holds(item, project_row) for item in items if not isinstance(item, Token)]
            return or_(*([SEGMENTS.c.tokens.overlap(_hashed(words, project_row))] if words else []), *others)


def _hashed(words: list[str], project_row: int) -> Any:
    return array([func.event_token(word, project_row, type_=Integer) for word in words], type_=Integer)


def _parts_of(segments: list[Segment]) -> Iterator[Part]:
    """The segments, so many together as one statement may read, the latest end first."""
    batch: list[Segment] = []
    for segment in segments:
        if batch and (len(batch) == _BATCH or days_of([*batch, segment]) > DAYS_AT_ONCE):
            yield _part_of(batch)
            batch = []
        batch.append(segment)
    if batch:
        yield _part_of(batch)


def days_of(segments: Sequence[Any]) -> int:
    """Over how many days (UTC) segments reach, from the first to the last."""
    days: list[date] = [moment.date() for each in segments for moment in (each.begins_at, each.ends_at)]
    return (max(days) - min(days)).days + 1


def _part_of(segments: list[Segment]) -> Part:
    ends_at = max(each.ends_at for each in segments)
    within = TimeRange(min(each.begins_at for each in segments), ends_at + timedelta(microseconds=1))
    positions = (EVENTS.c.position.between(each.first_position, each.last_position) for each in segments)
    return Part(within, or_(*positions))
