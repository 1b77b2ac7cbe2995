"""Counts a project's events in buckets of time, by group.

The counts are those of the rows that a search finds with the same query and range, because of three things. The range
ends where nothing can be stored any more, as a search's does. Whole hours are taken from the hourly counts only if the
query asks for nothing but what they are counted by; everything else is read from the rows. And each event is in one
bucket and in one group: the total is the sum of all.

The statements of one answer have a snapshot each. Between two of them events can only vanish, with their retention.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

import msgspec

from app.database.engine import Database
from app.events.counts.buckets import Buckets, Interval, buckets_of, find_zone, usual_interval
from app.events.counts.groups import Group, Kind, read_grouping
from app.events.counts.reading import Counting
from app.events.names import find_project, resolved
from app.events.query.parsing import parse
from app.events.query.printing import print_query
from app.events.ranges import Bound, TimeRange, frozen_range
from app.events.search import read_horizon
from app.events.standby import Standby, read_up_to
from app.events.statements import COUNTS, reading
from app.events.transactions import FewDays
from app.management.common.operators import Operator

_NONE: Final[Counter[Group]] = Counter()


@dataclass(frozen=True, kw_only=True, slots=True)
class CountsRequest:
    """Which events, and how they are to be counted."""

    project_id: str
    q: str = ""
    begin: Bound | None = None
    end: Bound | None = None
    interval: Interval | None = None
    """None: one that makes about a hundred buckets at most."""
    group_by: str = "none"
    timezone: str = "UTC"


class GroupCount(msgspec.Struct, frozen=True, gc=False):
    """How many events are in a group."""

    value: str | None
    kind: str
    count: int


class Bucket(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How many events are in a bucket, and in each group that has some."""

    start: datetime
    count: int
    partial: bool
    """Whether the range begins or ends within it."""
    groups: list[GroupCount]


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """The answer."""

    total: int
    interval: Interval
    timezone: str
    group_by: str
    groups: list[GroupCount]
    """Of the whole range, the largest first, those without a value and the rest behind them."""
    buckets: list[Bucket]
    normalized: str
    range: TimeRange


def count_events(
    database: Database, operator: Operator, request: CountsRequest, standby: Standby | None = None
) -> Counts:
    """The counts that `request` asks for, read on the standby if there is one.

    Raises SchemaValidationFailed for a query, a range, an interval, a group or a time zone that is wrong, NotFound for
    a project beyond the caller's reach, and QueryTooBroad.
    """
    zone = find_zone(request.timezone)
    grouping = read_grouping(request.group_by)
    node = parse(request.q)
    normalized = print_query(node)
    begin = partial(reading, workspace_id=operator.workspace_id, query_class=COUNTS)
    with FewDays(partial(begin, database)) as transactions:
        session = transactions.session()
        project = find_project(session, operator, request.project_id)
        node = resolved(session, operator, project.id, node)
        within = frozen_range(request.begin, request.end, read_horizon(session, operator))
        interval = request.interval or usual_interval(within)
        buckets = buckets_of(within, interval, zone)
        count = partial(
            _by_bucket,
            operator=operator,
            project_row=project.id,
            node=node,
            grouping=grouping,
            within=within,
            starts=buckets.starts,
        )
        found = read_up_to(within.end, count, transactions, standby, begin) if buckets.starts else {}
    events: Counter[Group] = Counter()
    for counted in found.values():
        events.update(counted)
    order = [] if grouping.is_none else sorted(events, key=lambda group: _place_of(group, events))
    return Counts(
        total=events.total(),
        interval=interval,
        timezone=request.timezone,
        group_by=grouping.name,
        groups=_shown(order, events),
        buckets=list(_buckets(buckets, within, found, order)),
        normalized=normalized,
        range=within,
    )


def _by_bucket(transactions: FewDays, **asked: Any) -> dict[int, Counter[Group]]:
    return Counting(transactions=transactions, until=time.monotonic() + COUNTS.seconds, **asked).by_bucket()


def _place_of(group: Group, events: Mapping[Group, int]) -> tuple[bool, bool, int, Group]:
    return group.kind == Kind.REST, group.value is None, -events[group], group


def _buckets(
    buckets: Buckets, within: TimeRange, found: Mapping[int, Counter[Group]], order: Sequence[Group]
) -> Iterator[Bucket]:
    for n, (start, end) in enumerate(buckets.pairs(), 1):
        events = found.get(n, _NONE)
        is_cut = start < within.begin or end > within.end
        yield Bucket(start=start, count=events.total(), partial=is_cut, groups=_shown(order, events))


def _shown(order: Iterable[Group], events: Mapping[Group, int]) -> list[GroupCount]:
    return [GroupCount(group.value, group.kind, events[group]) for group in order if events[group]]
