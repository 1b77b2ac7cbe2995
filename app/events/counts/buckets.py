"""Cuts a time range into buckets: minutes, hours, days, weeks or months of a time zone.

A bucket begins where the zone's clocks show its start. If they leave that time out, it begins where they go on. If they
show it twice, a bucket of up to an hour begins twice, a longer one once: each hour of a day of 25 hours has its bucket,
and the day has one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from functools import cache
from itertools import pairwise
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from app.errors import Fault, SchemaValidationFailed
from app.events.query.faults import nearest
from app.events.ranges import TimeRange

BUCKETS_MAX: Final = 1_000
_USUAL_BUCKETS_MAX: Final = 100
_SECOND: Final = timedelta(seconds=1)


class Interval(StrEnum):
    """How long a bucket is, from its start to the next one's. No two names differ by their case alone: generators of
    clients make constants of them.
    """

    MINUTE = "1m"
    FIVE_MINUTES = "5m"
    QUARTER = "15m"
    HALF_HOUR = "30m"
    HOUR = "1h"
    THREE_HOURS = "3h"
    SIX_HOURS = "6h"
    TWELVE_HOURS = "12h"
    DAY = "1d"
    WEEK = "1w"
    MONTH = "1mo"

    @property
    def length(self) -> timedelta:
        """The usual one; of months the shortest."""
        return _LENGTHS[self]


_LENGTHS: Final = {
    Interval.MINUTE: timedelta(minutes=1),
    Interval.FIVE_MINUTES: timedelta(minutes=5),
    Interval.QUARTER: timedelta(minutes=15),
    Interval.HALF_HOUR: timedelta(minutes=30),
    Interval.HOUR: timedelta(hours=1),
    Interval.THREE_HOURS: timedelta(hours=3),
    Interval.SIX_HOURS: timedelta(hours=6),
    Interval.TWELVE_HOURS: timedelta(hours=12),
    Interval.DAY: timedelta(days=1),
    Interval.WEEK: timedelta(weeks=1),
    Interval.MONTH: timedelta(days=28),
}
# Beyond six hours no shorter one than an hour: whole hours are counted already, parts of them have to be read.
_USUAL: Final = (
    (Interval.MINUTE, timedelta(hours=1)),
    (Interval.FIVE_MINUTES, timedelta(hours=6)),
    *(
        (interval, interval.length * _USUAL_BUCKETS_MAX)
        for interval in Interval
        if interval.length >= _LENGTHS[Interval.HOUR]
    ),
)


def usual_interval(within: TimeRange) -> Interval:
    """The shortest of the usual ones that makes at most about a hundred buckets of a range."""
    length = within.end - within.begin
    return next((interval for interval, length_max in _USUAL if length <= length_max), Interval.MONTH)


def find_zone(name: str) -> ZoneInfo:
    """The time zone of this IANA name. Raises SchemaValidationFailed with the names that look like it."""
    if name not in _zones():
        message = "There is no time zone of this name. IANA names are such as Europe/Berlin and UTC."
        raise SchemaValidationFailed(faults=(Fault("/timezone", message, suggestions=nearest(name, _zones())),))
    return ZoneInfo(name)


@cache
def _zones() -> frozenset[str]:
    """The names of all zones; a look into each of their files."""
    return frozenset(available_timezones())


@dataclass(frozen=True, slots=True)
class Buckets:
    """Buckets that follow one another, in UTC."""

    starts: Sequence[datetime]
    end: datetime
    """Of the last one."""

    def pairs(self) -> Iterator[tuple[datetime, datetime]]:
        """The start and the end of each."""
        return pairwise((*self.starts, self.end))


def buckets_of(within: TimeRange, interval: Interval, zone: ZoneInfo) -> Buckets:
    """All buckets of which some part lies in a range; the first may begin before it, and the last end behind it.

    Raises SchemaValidationFailed if they are more than BUCKETS_MAX.
    """
    if within.begin >= within.end:
        return Buckets((), within.end)
    # Before the starts are made: they may be half a million.
    if (within.end - within.begin) / interval.length > BUCKETS_MAX + 1:
        raise _too_many(within, interval)
    starts = _all_starts(within, interval, zone)
    before = max(start for start in starts if start <= within.begin)
    found = sorted(start for start in starts if before <= start < within.end)
    if len(found) > BUCKETS_MAX:
        raise _too_many(within, interval)
    return Buckets(found, min(start for start in starts if start >= within.end))


def _too_many(within: TimeRange, interval: Interval) -> SchemaValidationFailed:
    fitting = [each for each in Interval if (within.end - within.begin) / each.length <= BUCKETS_MAX - 2]
    message = f"At most {BUCKETS_MAX:,} buckets are answered: ask for a longer interval, or for a shorter range."
    suggestions = tuple(each.value for each in fitting if each.length > interval.length)[:1]
    return SchemaValidationFailed(faults=(Fault("/interval", message, suggestions=suggestions),))


def _all_starts(within: TimeRange, interval: Interval, zone: ZoneInfo) -> set[datetime]:
    """Those of the buckets in a range, and some behind it."""
    is_begun_twice = interval.length <= timedelta(hours=1)
    # Where clocks go back, a later time on the clock can be an earlier moment.
    last = _shown(within.end, zone) + max(interval.length, timedelta(hours=2))
    starts: set[datetime] = set()
    for shown in _times_on_the_clock(_shown(within.begin, zone), interval):
        moments = _moments(shown, zone, is_begun_twice=is_begun_twice)
        starts.update(moments)
        if shown > last and moments[0] >= within.end:
            break
    return starts


def _shown(moment: datetime, zone: ZoneInfo) -> datetime:
    """What the zone's clocks show, without a zone."""
    return moment.astimezone(zone).replace(tzinfo=None)


def _times_on_the_clock(begin: datetime, interval: Interval) -> Iterator[datetime]:
    """The starts of buckets as clocks show them, from the one that `begin` lies in."""
    midnight = datetime.combine(begin.date(), time.min)
    match interval:
        case Interval.MONTH:
            shown = midnight.replace(day=1)
            while True:
                yield shown
                shown = (shown + timedelta(days=31)).replace(day=1)
        case Interval.WEEK:
            shown = midnight - timedelta(days=midnight.weekday())
        case _:
            shown = midnight + (begin - midnight) // interval.length * interval.length
    while True:
        yield shown
        shown += interval.length


def _moments(shown: datetime, zone: ZoneInfo, *, is_begun_twice: bool) -> list[datetime]:
    """When the zone's clocks show this time, or go on behind it."""
    first, second = (
        (shown - (shown.replace(tzinfo=zone, fold=fold).utcoffset() or timedelta(0))).replace(tzinfo=UTC)
        for fold in (0, 1)
    )
    if first > second:
        # The clocks leave it out: the first reckons with the offset before, the second with the one behind (PEP 495).
        return [_change_between(second, first, zone)]
    return [first, second] if is_begun_twice else [first]


def _change_between(before: datetime, behind: datetime, zone: ZoneInfo) -> datetime:
    """The moment, to the second, from which on clocks show what they show `behind`."""
    offset = behind.astimezone(zone).utcoffset()
    while behind - before > _SECOND:
        middle = before + (behind - before) // 2
        middle -= timedelta(microseconds=middle.microsecond)
        if middle.astimezone(zone).utcoffset() == offset:
            behind = middle
        else:
            before = middle
    return behind
