"""Decides on the ingest path, in microseconds and without I/O, whether a key may send now (bench/rates.py).

A decision rests on what all processes had admitted at the last sync (0.1 s ago, while Redis is there) and on what this
one has admitted since.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Final, NamedTuple

from app.concurrency.background import Background
from app.concurrency.fork import reset_after_fork
from app.credentials.verification import Identity
from app.errors import RateLimitExceeded, StorageUnavailable
from app.rate_limits.gcra import WINDOW_SECONDS, LimitState
from app.rate_limits.overrides import Overrides
from app.rate_limits.redis_sync import RedisSync

_SYNC_SECONDS = 0.1
# A limit of which this much was consumed since the last sync is synced at once: until then, each process admits the
# whole quota. Not more often than fifty times a second, or syncing costs more than the events do.
_EARLY_SYNC_SECONDS = 0.125
_SYNC_SECONDS_MIN = 0.02
_OVERRIDES_SECONDS = 2.0
_SWEEP_SECONDS = 10.0
# About 300 bytes each; a state that is dropped starts again with a whole quota. Between two sweeps there may be more:
# a key that is new to a process costs it a query, so that ten seconds bring a few thousand.
_STATES_MAX = 100_000
# A body of this size costs the interpreter 0.3 ms at the worst (docs/decisions/0007), about what a common event costs
# the whole installation; nearly all events are smaller.
BYTES_PER_EVENT: Final = 4096
_WORKSPACE: Final = "workspace"


@dataclass(frozen=True, slots=True)
class Credential:
    """A kind of credential, as headers and messages call it."""

    policy: str
    called: str
    units: str
    """What it sends."""
    workspaces: str
    """What the names of its workspaces' limits begin with: a workspace has one for each kind of credential."""


SOURCE_KEY: Final = Credential("key", "source key", "events", "workspace")
MANAGEMENT_TOKEN: Final = Credential("token", "management token", "requests", "management_of_workspace")


@dataclass(frozen=True, slots=True)
class Rates:
    """Events, or requests, per second for keys and workspaces without an override; None is no limit."""

    key: int | None
    workspace: int | None


class Allowance(NamedTuple):
    """What is left after a request. A tuple, because each event makes one."""

    policy: str
    state: str

    @property
    def headers(self) -> dict[str, str]:
        """The answer's headers (draft-ietf-httpapi-ratelimit-headers); empty if there is no limit."""
        return {"RateLimit-Policy": self.policy, "RateLimit": self.state} if self.policy else {}


def events_worth(body_bytes: int) -> int:
    """As how many events a body of this size counts at least."""
    return max(1, -(-body_bytes // BYTES_PER_EVENT))


class RateLimiter:
    """Admits events, for one process; all limiters that sync with the same Redis keep to one rate together."""

    def __init__(
        self,
        rates: Rates,
        *,
        credential: Credential = SOURCE_KEY,
        redis_sync: RedisSync | None = None,
        read_overrides: Callable[[], Overrides] = Overrides,
        clock: Callable[[], float] = time.monotonic,
        background: type[Background] = Background,
    ) -> None:
        self._rates = rates
        self._credential = credential
        self._redis_sync = redis_sync
        self._read_overrides = read_overrides
        self._clock = clock
        self._overrides = Overrides()
        self._reset()
        reset_after_fork(self, RateLimiter._reset)
        self._background = background(
            self.step, name="rate-limits", pause_seconds=_SYNC_SECONDS, pause_seconds_min=_SYNC_SECONDS_MIN
        )

    def _reset(self) -> None:
        self._reloading = threading.Lock()
        self._keys: dict[int, LimitState] = {}
        self._workspaces: dict[int, LimitState] = {}
        self._to_sync: set[LimitState] = set()
        self._overrides_due = self._sweep_due = float("-inf")

    def admit(self, identity: Identity, events: int = 1, *, consumed: int = 0, is_urgent: bool = False) -> Allowance:
        """Admit all `events` of a key or none; 0 asks whether one would be admitted, and consumes nothing.

        `consumed` of them were admitted before, when less was known of the request; a refusal gives them back. An
        urgent request is not refused for what others of its workspace consumed. Raises RateLimitExceeded.
        """
        if not self._background.is_running:
            self._background.start()
        now = self._clock()
        key, workspace = self._keys.get(identity.row_id), self._workspaces.get(identity.workspace_id)
        overrides = self._overrides
        if not (key and workspace) or key.overrides is not overrides or workspace.overrides is not overrides:
            key, workspace = self._states(identity)
        key_left = key.remaining(now) + consumed * key.emission_interval
        workspace_left = workspace.remaining(now) + consumed * workspace.emission_interval
        key_refuses = key_left < key.required(events)
        workspace_refuses = workspace_left < workspace.required(events) and not is_urgent
        if key_refuses:
            key.refuse(now)
        if workspace_refuses:
            workspace.refuse(now)
        admitted = 0 if key_refuses or workspace_refuses else events
        key.consume(admitted - consumed, now)
        workspace.consume(admitted - consumed, now)
        if self._redis_sync:
            self._to_sync.add(key)
            self._to_sync.add(workspace)
            if key.unsynced > _EARLY_SYNC_SECONDS or workspace.unsynced > _EARLY_SYNC_SECONDS:
                self._background.hurry()
        key_header = key.header(key_left - admitted * key.emission_interval, now)
        workspace_header = workspace.header(workspace_left - admitted * workspace.emission_interval, now)
        allowance = Allowance(_joined(key.policy, workspace.policy), _joined(key_header, workspace_header))
        if key_refuses or workspace_refuses:
            key_wait = key.wait_for(events, now) if key_refuses else 0.0
            workspace_wait = workspace.wait_for(events, now) if workspace_refuses else 0.0
            if key_wait >= workspace_wait:
                raise self._refusal(self._credential.called, key.limit, events, key_wait, allowance)
            raise self._refusal(_WORKSPACE, workspace.limit, events, workspace_wait, allowance)
        return allowance

    def _states(self, identity: Identity) -> tuple[LimitState, LimitState]:
        """The states of a key and its workspace, with the limits that hold now.

        A state follows new overrides at its next request, so that reading them costs no walk over all keys.
        """
        key_row, workspace_row, overrides = identity.row_id, identity.workspace_id, self._overrides
        key = self._keys.setdefault(key_row, LimitState(identity.public_id, self._credential.policy))
        name = f"{self._credential.workspaces}_{workspace_row}"
        workspace = self._workspaces.setdefault(workspace_row, LimitState(name, _WORKSPACE))
        of_keys = overrides.keys_by_workspace.get(workspace_row, self._rates.key)
        key.set_limit(overrides.keys.get(key_row, of_keys))
        workspace.set_limit(overrides.workspaces.get(workspace_row, self._rates.workspace))
        key.overrides = workspace.overrides = overrides
        return key, workspace

    def _refusal(
        self, called: str, limit: int, events: int, wait_seconds: float, allowance: Allowance
    ) -> RateLimitExceeded:
        units = self._credential.units
        seconds = max(1, ceil(wait_seconds))
        later = f"Repeat the same request in {seconds} second{'s' if seconds > 1 else ''}"
        message = f"This {called} may send {limit} {units} per second, and this request is more than is left. {later}."
        if events > limit * WINDOW_SECONDS:
            message = (
                f"This request counts as {events} {units}, and its {called} may send {limit} per second: it is taken"
                f" only while nothing of that is used. {later}, or send fewer {units} at once."
            )
        refusal = RateLimitExceeded(message)
        refusal.retry_after_seconds, refusal.headers = seconds, allowance.headers
        return refusal

    def step(self) -> None:
        """The background thread's work, ten times a second."""
        now = self._clock()
        if now >= self._overrides_due:
            self._overrides_due = now + _OVERRIDES_SECONDS
            self.reload_overrides()
        self.sync()
        if now >= self._sweep_due:
            self._sweep_due = now + _SWEEP_SECONDS
            if self._redis_sync:
                self._redis_sync.probe()
            self.sweep()

    def sync(self) -> None:
        """Sync the limits of which enough was consumed since the last time."""
        # One at a time: a request that comes meanwhile adds its limits again.
        states = [self._to_sync.pop() for _ in range(len(self._to_sync))]
        if self._redis_sync:
            self._redis_sync.sync([state for state in states if state.is_worth_syncing])

    def reload_overrides(self) -> None:
        """Read all overrides; while the database is away, those that were read last stay."""
        # One at a time, or an older reading could replace a newer one.
        with self._reloading:
            try:
                overrides = self._read_overrides()
            except StorageUnavailable:
                return
            if overrides != self._overrides:
                self._overrides = overrides

    def sweep(self) -> int:
        """Drop states that say no more than a new one would, and the oldest of too many; returns how many."""
        now = self._clock()
        swept = 0
        for states in (self._keys, self._workspaces):
            for row, state in list(states.items()):  # the copy is one step of the interpreter
                if state.reset_in(now) <= 0 or len(states) > _STATES_MAX:
                    swept += states.pop(row, None) is not None
        return swept


def _joined(of_key: str, of_workspace: str) -> str:
    return f"{of_key}, {of_workspace}" if of_key and of_workspace else of_key or of_workspace
