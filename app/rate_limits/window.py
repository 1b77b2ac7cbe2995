"""The arithmetic of one limit, on one clock: knows no Redis and no key.

An event buys time: at 10 a second it costs a tenth of a second. `spent` is the moment up to which time is sold, and a
window sells, from the moment in which it opens, the whole second at once. Whoever stays within that finds a new window
when it is over. Whoever asks for more gets the time of the clock from then on, neither sooner nor later: so the rate
over any span that is longer than a second is the limit, and no edge between two windows lets twice the limit through.
What was sold beyond the window (other processes sold too, and this one learnt it late) is a debt that time pays off.

Threads share a window without a lock: with one, sixteen busy threads queue for it and each event costs four times as
much (docs/decisions/0007). The interpreter changes threads at calls and loops only; so what reads a number and writes
it back does neither in between, and a test with many threads counts every event. Of several threads that see the last
event left, each may take it: that is a debt like any other.
"""

from math import ceil
from typing import Final, NamedTuple

SPAN_SECONDS: Final = 1
"""The window of the policy: limits are events per second."""
EVENTS_PER_SECOND_MAX: Final = 10_000_000
"""Beyond this the clock's float is too coarse to tell single events apart; no installation comes near."""
# A report costs the process 10 µs: of little use nobody is told until it adds up to this much of the quota.
_WORTH_TELLING_SECONDS = 0.005
# Sums of floats: the last event of a window must not be refused for a rounding, and a hundredth event is nothing.
_ROUNDING = 0.01


class Report(NamedTuple):
    """What a process tells of one limit; times in seconds."""

    name: str
    spent: float
    """What was bought since the last report."""
    age: float
    """How long ago the first of it was bought."""
    has_refused: bool


class Standing(NamedTuple):
    """Where one limit stands over all processes, as seconds from now: what is past is negative."""

    opened: float
    spent: float
    refused: float


class Window:
    """How much of one limit is left."""

    __slots__ = (
        "cost",
        "first_bought",
        "has_refused",
        "is_noted",
        "limit",
        "name",
        "opened",
        "policy",
        "refused",
        "spent",
        "unreported",
        "workspace_row",
    )

    def __init__(self, name: str, kind: str, limit: int | None, workspace_row: int = 0) -> None:
        self.name = name
        self.workspace_row = workspace_row
        self.opened = self.spent = self.refused = float("-inf")
        self.unreported = self.first_bought = 0.0
        self.has_refused = self.is_noted = False
        self.set_limit(kind, limit)

    def set_limit(self, kind: str, limit: int | None) -> None:
        """Sell at another price from now on; None is no limit."""
        self.limit = limit or 0
        self.cost = SPAN_SECONDS / limit if limit else 0.0
        self.policy = f'"{kind}";q={limit};w={SPAN_SECONDS}' if limit else ""

    def left(self, now: float) -> float:
        """Seconds that can be bought now; opens a new window if the one before was kept to."""
        spent, until = self.spent, self.opened + SPAN_SECONDS
        if spent <= now and until <= now and self.refused + SPAN_SECONDS <= now:
            self.opened = self.spent = now
            return SPAN_SECONDS
        # The clock's time is sold one event ahead, or the first event of a second would have to wait until its end.
        ahead = now + self.cost
        left = (until if until > ahead else ahead) - spent  # noqa: FURB136 - max() is a call
        if left > SPAN_SECONDS:
            self.spent = spent + left - SPAN_SECONDS
            return SPAN_SECONDS
        return left

    def needed(self, events: int) -> float:
        """What must be left for `events` at once.

        More events than the whole quota need all of it, and leave a debt: refused for ever they would be stuck, and
        let through at each chance they would let nobody else through.
        """
        return min((events or 1) * self.cost, SPAN_SECONDS) - self.cost * _ROUNDING

    def buy(self, events: int, now: float) -> None:
        """Sell the time of `events`, whatever is left."""
        price = events * self.cost
        if not self.unreported:
            self.first_bought = now
        self.spent += price
        self.unreported += price

    def refuse(self, now: float) -> None:
        """Somebody wanted more than was left."""
        self.refused = now
        self.has_refused = True

    def wait_for(self, events: int, now: float) -> float:
        """Seconds until `events` at once are let through, if nobody else comes."""
        return min(self.spent + self.needed(events) - self.cost - now, self._rested_in(now))

    def state(self, left: float, now: float, kind: str) -> str:
        """The item of the RateLimit header: events left, and seconds until the whole quota is there again."""
        cost = self.cost
        events = int(left / cost + _ROUNDING) if left > 0 and cost else 0
        return f'"{kind}";r={events};t={max(0, ceil(self._rested_in(now)))}'

    def _rested_in(self, now: float) -> float:
        return max(self.opened + SPAN_SECONDS, self.spent, self.refused + SPAN_SECONDS) - now

    def is_idle(self, now: float) -> bool:
        """Whether it says no more than a new one would."""
        return not self.is_noted and max(self.opened, self.refused, self.spent - SPAN_SECONDS) + SPAN_SECONDS <= now

    @property
    def is_worth_telling(self) -> bool:
        """Whether the other processes should hear of it now."""
        return self.has_refused or self.unreported >= _WORTH_TELLING_SECONDS

    def report(self, now: float) -> Report:
        """What was bought since the last report; it is told this once."""
        has_refused, self.has_refused = self.has_refused, False
        spent, self.unreported = self.unreported, 0.0
        return Report(self.name, spent, now - self.first_bought if spent else 0.0, has_refused)

    def learn(self, standing: Standing, now: float) -> None:
        """Take over what all processes together have sold, and add what was bought since the report."""
        opened, spent, refused = now + standing.opened, now + standing.spent, now + standing.refused
        self.opened = opened
        self.spent = spent + self.unreported
        if refused > self.refused:  # noqa: PLR1730 - max() is a call
            self.refused = refused
