"""Sums events by bucket and group: in PostgreSQL, one statement for each part of them, and then over all parts.

How many groups there are is bounded by nothing: an order id is another one in every event. So each statement keeps its
largest groups and adds the others up, and the sums are exact whichever it keeps. If groups of some part were added up,
those that lead over all parts are counted there once more, by name.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    CTE,
    BigInteger,
    Select,
    SelectBase,
    Text,
    and_,
    case,
    cast,
    func,
    literal,
    null,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY

from app.events.counts.groups import WITHOUT_VALUE, Group, Grouping, Kind
from app.events.counts.rollup import MOMENTS

SHOWN_MAX: Final = 10
"""How many groups with a value are shown by themselves."""
_ROWS_MAX: Final = 50_000
"""How many sums one statement gives back: some megabytes."""
REST: Final = Group(Kind.REST, None)


class Sum(NamedTuple):
    """How many events are in one bucket and one group."""

    bucket: int
    """From 1 on."""
    group: Group
    events: int


def summed(
    source: SelectBase, starts: Sequence[datetime], grouping: Grouping, kept: Collection[Group] | None
) -> Select[Any]:
    """The sums of a source of `at`, `events`, `kind` and `value`; of all groups but those that are kept, one sum.

    `kept` of None: the largest ones.
    """
    found = source.subquery("found")
    bucket = func.width_bucket(found.c.at, literal(list(starts), MOMENTS))
    placed = select(bucket.label("bucket"), found.c.kind, found.c.value, found.c.events).subquery("placed")
    events = cast(func.sum(placed.c.events), BigInteger).label("events")
    if grouping.is_none:
        return select(placed.c.bucket, literal(Kind.REST.value).label("kind"), null().label("value"), events).group_by(
            placed.c.bucket
        )
    keys = (placed.c.bucket, placed.c.kind, placed.c.value)
    counted = select(*keys, events).group_by(*keys).cte("counted")
    names = _largest(counted, max(SHOWN_MAX, _ROWS_MAX // len(starts))) if kept is None else _named(kept)
    is_named = and_(names.c.kind == counted.c.kind, names.c.value == counted.c.value)
    is_kept = or_(names.c.kind.is_not(None), counted.c.kind.in_([kind.value for kind in sorted(WITHOUT_VALUE)]))
    by_name = (
        select(
            counted.c.bucket,
            case((is_kept, counted.c.kind), else_=Kind.REST.value).label("kind"),
            case((is_kept, counted.c.value)).label("value"),
            counted.c.events,
        )
        .select_from(counted.outerjoin(names, is_named))
        .subquery("by_name")
    )
    keys = (by_name.c.bucket, by_name.c.kind, by_name.c.value)
    return select(*keys, cast(func.sum(by_name.c.events), BigInteger).label("events")).group_by(*keys)


def _largest(counted: CTE, limit: int) -> CTE:
    value = counted.c.value.collate("C")
    return (
        select(counted.c.kind, counted.c.value)
        .where(counted.c.value.is_not(None))
        .group_by(counted.c.kind, counted.c.value)
        .order_by(func.sum(counted.c.events).desc(), value, counted.c.kind)
        .limit(limit)
        .cte("kept")
    )


def _named(groups: Collection[Group]) -> CTE:
    def column(texts: Iterable[str | None], name: str) -> Any:
        return func.unnest(literal(list(texts), ARRAY(Text))).label(name)

    return select(column((it.kind for it in groups), "kind"), column((it.value for it in groups), "value")).cte("kept")


@dataclass(slots=True)
class Sums:
    """The sums of all parts."""

    by_part: list[list[Sum]] = field(default_factory=list)

    def groups(self) -> set[Group]:
        """Those that some part has found."""
        return {each.group for part in self.by_part for each in part} - {REST}

    def incomplete_parts(self) -> list[int]:
        """The parts that lack sums of single groups; none if there is but one, which knows its largest ones."""
        if len(self.by_part) == 1:
            return []
        return [n for n, part in enumerate(self.by_part) if any(each.group == REST for each in part)]

    def leading(self, names: Mapping[str, str]) -> set[Group]:
        """The groups with a value that have the most events, under their names; of equal ones, the first."""
        events: Counter[Group] = Counter()
        for part in self.by_part:
            for each in part:
                if each.group.value is not None:
                    events[shown(each.group, names)] += each.events
        return set(sorted(events, key=lambda group: (-events[group], group.value, group.kind))[:SHOWN_MAX])

    def by_bucket(self, names: Mapping[str, str]) -> dict[int, Counter[Group]]:
        """The events of each bucket by the groups that are shown; all others are the rest."""
        leading = self.leading(names)
        buckets: dict[int, Counter[Group]] = {}
        for part in self.by_part:
            for bucket, group, events in part:
                name = shown(group, names)
                is_shown = name in leading or group.kind in WITHOUT_VALUE
                buckets.setdefault(bucket, Counter())[name if is_shown else REST] += events
        return buckets


def shown(group: Group, names: Mapping[str, str]) -> Group:
    """The group under its name, if it has one."""
    return group if group.value is None else Group(group.kind, names.get(group.value, group.value))
