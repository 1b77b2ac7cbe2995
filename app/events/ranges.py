"""The time range of a query, by `received_at`, and the days that it is walked in."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from app.errors import Fault, SchemaValidationFailed
from app.events.statements import DAYS_AT_ONCE

USUAL_RANGE: Final = timedelta(hours=24)
"""If a query does not say since when."""
DAYS_MAX: Final = 400
"""How long a range may be: more than a year, so that last year's month can be compared with this one."""


Bound = datetime | timedelta
"""One end of a range as a caller gives it: a moment, or how long ago."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    """From a moment, included, to another, excluded; both in UTC."""

    begin: datetime
    end: datetime

    def days(self) -> list[date]:
        """The days (UTC) that it lies in."""
        if self.end <= self.begin:
            return []
        first, last = self.begin.date(), (self.end - timedelta(microseconds=1)).date()
        return [first + timedelta(days=n) for n in range((last - first).days + 1)]

    def windows(self) -> Iterator["TimeRange"]:
        """Its parts, the newest first, each within so many days (UTC) as one statement may touch."""
        end = self.end
        while end > self.begin:
            last_day = (end - timedelta(microseconds=1)).date()
            first = datetime.combine(last_day - timedelta(days=DAYS_AT_ONCE - 1), time.min, UTC)
            begin = max(first, self.begin)
            yield TimeRange(begin, end)
            end = begin


def frozen_range(begin: Bound | None, end: Bound | None, horizon: datetime) -> TimeRange:
    """The range of a query that is asked for the first time; nothing can be stored in it any more.

    `horizon` is what event_horizon() says: the range ends there at the latest, and what is ago is before it. Raises
    SchemaValidationFailed if the range is empty or too long.
    """
    asked_end = horizon if end is None else _moment(end, horizon)
    asked_begin = asked_end - USUAL_RANGE if begin is None else _moment(begin, horizon)
    if asked_begin >= asked_end:
        raise SchemaValidationFailed(faults=(Fault("/to", "Must be later than from."),))
    until = min(asked_end, horizon)
    since = min(asked_begin, until)
    # Of what is asked for, and not of what is left of it: the same request must be right or wrong tomorrow too.
    if asked_end - asked_begin > timedelta(days=DAYS_MAX):
        raise SchemaValidationFailed(faults=(Fault("/from", f"A range is {DAYS_MAX} days long at the most."),))
    return TimeRange(since, until)


def _moment(bound: Bound, horizon: datetime) -> datetime:
    return horizon - bound if isinstance(bound, timedelta) else bound
