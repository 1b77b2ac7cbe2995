"""The state of one limit: GCRA, the generic cell rate algorithm, on one clock. Knows no Redis and no key.

Each event moves the theoretical arrival time (`tat`) on by one emission interval, 1 / limit. Plain GCRA with a burst
tolerance of one second admits that burst beside the steady rate: 20 % too much over five seconds. Here the tolerance
shrinks. A window starts with its first event; until it ends, `tat` may run ahead to its end, which is the whole quota
in one burst; after that, to one emission interval ahead of the clock, which is the steady rate. The next window starts
once `tat` and the window's end have passed, and a second since the last refusal. So a client that keeps to the quota
of each second is never refused, and one that asks for more gets limit * max(1 s, T) events in T seconds. Where `tat` is
further ahead (a batch larger than the quota, events that other processes admitted unseen), it is a debt.

Threads share a state without a lock, which would make sixteen busy threads queue (docs/decisions/0007). CPython
switches threads at calls and loops only, and no update has one between its read and its write. Several threads that
see the last event left may each admit one: a debt as well.
"""

from dataclasses import dataclass
from math import ceil, inf
from typing import Final

WINDOW_SECONDS: Final = 1
"""The window of the policy: limits are events per second."""
EVENTS_PER_SECOND_MAX: Final = 10_000_000
"""Beyond this the clock's float is too coarse to tell single events apart; no installation comes near."""
# Syncing one limit costs the process 10 µs, so a little use waits until it adds up to this share of the quota.
_WORTH_SYNCING_SECONDS = 0.005
# Sums of floats: a window's last event must not fail for a rounding, and a hundredth of an event is harmless.
_ROUNDING = 0.01


@dataclass(slots=True, eq=False)
class LimitState:
    """What is left of one limit; without a limit at first. All amounts are seconds: events * emission interval."""

    name: str
    kind: str
    overrides: object = None
    """Those that the limit was taken from."""
    limit: int = 0
    emission_interval: float = 0.0
    rounding: float = inf
    policy: str = ""
    tat: float = -inf
    window_end: float = -inf
    next_window_start: float = -inf
    unsynced: float = 0.0
    unsynced_since: float = 0.0
    has_unsynced_refusal: bool = False
    has_unsynced_window: bool = False
    """Whether a window has begun since the last delta was taken."""

    def set_limit(self, limit: int | None) -> None:
        """Events per second from now on; None is no limit."""
        self.limit = limit or 0
        self.emission_interval = WINDOW_SECONDS / limit if limit else 0.0
        self.rounding = self.emission_interval * _ROUNDING if limit else inf
        self.policy = f'"{self.kind}";q={limit};w={WINDOW_SECONDS}' if limit else ""

    def remaining(self, now: float) -> float:
        """What can be consumed now; starts a new window if it is time for one."""
        tat, horizon = self.tat, self.window_end
        if tat <= now and self.next_window_start <= now:
            self.tat = now
            self.window_end = self.next_window_start = now + WINDOW_SECONDS
            # What little was consumed before and not synced counts in this window. With its own age, the window would
            # begin as long ago in Redis: it would come back as over, and the whole quota be admitted again.
            self.unsynced_since = now
            self.has_unsynced_window = True
            return WINDOW_SECONDS
        # One interval ahead of the clock, or the first event of a second would have to wait until its end.
        ahead = now + self.emission_interval
        remaining = (horizon if horizon > ahead else ahead) - tat  # noqa: FURB136 - max() is a call
        if remaining > WINDOW_SECONDS:
            self.tat = tat + remaining - WINDOW_SECONDS
            return WINDOW_SECONDS
        return remaining

    def required(self, events: int) -> float:
        """What must remain for `events` at once.

        More events than the quota need all of it and leave a debt: always refused they would be stuck, and admitted
        whenever something is left they would starve the others.
        """
        return min((events or 1) * self.emission_interval, WINDOW_SECONDS) - self.rounding

    def consume(self, events: int, now: float) -> None:
        """Move `tat` on, whatever remains; a negative number gives back."""
        seconds = events * self.emission_interval
        if not self.unsynced:
            self.unsynced_since = now
        self.tat += seconds
        self.unsynced += seconds

    def refuse(self, now: float) -> None:
        """Keep to the steady rate until a second has passed without a refusal."""
        self.next_window_start = now + WINDOW_SECONDS
        self.has_unsynced_refusal = True

    def wait_for(self, events: int, now: float) -> float:
        """Seconds until `events` at once are admitted, if no other request comes first."""
        return min(self.tat + self.required(events) - self.emission_interval - now, self.reset_in(now))

    def reset_in(self, now: float) -> float:
        """Seconds until the whole quota is there again; until then the state says more than a new one would."""
        return max(self.tat, self.next_window_start) - now

    def header(self, remaining: float, now: float) -> str:
        """The item of the RateLimit header; empty without a limit."""
        if not self.limit:
            return ""
        events = int(remaining / self.emission_interval + _ROUNDING) if remaining > 0 else 0
        return f'"{self.kind}";r={events};t={max(0, ceil(self.reset_in(now)))}'

    @property
    def is_worth_syncing(self) -> bool:
        """Whether the other processes should learn of it now."""
        return self.has_unsynced_refusal or abs(self.unsynced) >= _WORTH_SYNCING_SECONDS

    def take_delta(self, now: float) -> tuple[float, float, bool]:
        """What was consumed since the last delta, seconds since the first of it, and whether a request was refused."""
        is_refused, self.has_unsynced_refusal = self.has_unsynced_refusal, False
        self.has_unsynced_window = False
        consumed, self.unsynced = self.unsynced, 0.0
        return consumed, now - self.unsynced_since if consumed else 0.0, is_refused

    def merge(self, tat: float, window_end: float, next_window_start: float) -> None:
        """Take over the state of all processes, and add what came here since the delta."""
        if self.has_unsynced_window:
            # It began while Redis was asked, which answers with the one before. Taken over, that one would be past at
            # once, and another would begin beside this one.
            tat = max(tat, self.window_end - WINDOW_SECONDS)
            window_end = max(window_end, self.window_end)
            next_window_start = max(next_window_start, self.next_window_start)
        self.tat = tat + self.unsynced
        self.window_end = window_end
        if not self.has_unsynced_refusal or next_window_start > self.next_window_start:
            self.next_window_start = next_window_start
