"""Decides on the road, in a few microseconds and without any I/O, whether a key may send now (bench/rates.py).

A decision rests on what all processes had let through when this one last asked (a tenth of a second ago, while Redis
is there) and on what this one has let through since.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Final, NamedTuple

from app.concurrency.background import Background
from app.concurrency.fork import reset_after_fork
from app.credentials.verification import Identity
from app.errors import RateLimitExceeded, StorageUnavailable
from app.rate_limits.overrides import Overrides
from app.rate_limits.sharing import Sharing
from app.rate_limits.window import SPAN_SECONDS, Window

_STEP_SECONDS = 0.1
# Whoever has bought this many seconds of its limit since the last report is told of at once: until then, each process
# gives away the whole quota. Not more often than fifty times a second, or telling becomes the work.
_HURRY_SECONDS = 0.125
_STEP_SECONDS_MIN = 0.02
_OVERRIDES_SECONDS = 2.0
_SWEEP_SECONDS = 10.0
# Redis does nothing else while it reads one call.
_REPORTS_PER_CALL = 500
# About 500 bytes each; whoever is dropped begins with a full quota.
_WINDOWS_MAX = 100_000
# What a body of this size costs the interpreter at the worst (0.3 ms, docs/decisions/0007) is near what a common event
# costs the whole installation; and nearly no event is larger.
BYTES_PER_EVENT: Final = 4096
_WORKSPACE: Final = "workspace"


@dataclass(frozen=True, slots=True)
class Credential:
    """What kind of credential is limited, as headers and messages call it."""

    policy: str
    called: str
    units: str
    """What it sends."""
    workspaces: str
    """What the limits of workspaces are named by, which each has one of for each kind of credential."""


SOURCE_KEY: Final = Credential("key", "source key", "events", "workspace")
MANAGEMENT_TOKEN: Final = Credential("token", "management token", "requests", "management_of_workspace")


@dataclass(frozen=True, slots=True)
class Rates:
    """Events, or requests, per second of whoever has no limit of its own; None is no limit."""

    key: int | None
    workspace: int | None


class Allowance(NamedTuple):
    """A yes, and how much is left. A tuple, because one is made for each event."""

    policy: str
    state: str

    @property
    def headers(self) -> dict[str, str]:
        """What the answer tells of the limits (draft-ietf-httpapi-ratelimit-headers); empty if there are none."""
        return {"RateLimit-Policy": self.policy, "RateLimit": self.state} if self.policy else {}


def events_worth(body_bytes: int) -> int:
    """As how many events a body of this size counts at least, whatever is in it."""
    return max(1, -(-body_bytes // BYTES_PER_EVENT))


class RateLimiter:
    """Lets events through, for one process; all limiters that share a Redis keep to one rate together."""

    def __init__(
        self,
        rates: Rates,
        *,
        credential: Credential = SOURCE_KEY,
        sharing: Sharing | None = None,
        read_overrides: Callable[[], Overrides] = Overrides,
        clock: Callable[[], float] = time.monotonic,
        in_background: bool = True,
    ) -> None:
        self._rates = rates
        self._credential = credential
        self._kind = credential.policy
        self._sharing = sharing
        self._read_overrides = read_overrides
        self._clock = clock
        self._in_background = in_background
        self._overrides = Overrides()
        self._reset()
        reset_after_fork(self, RateLimiter._reset)
        self._background = Background(
            self.step, name="rate-limits", pause_seconds=_STEP_SECONDS, pause_seconds_min=_STEP_SECONDS_MIN
        )

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._keys: dict[int, Window] = {}
        self._workspaces: dict[int, Window] = {}
        self._noted: deque[Window] = deque()
        self._overrides_due = self._sweep_due = float("-inf")

    def admit(self, identity: Identity, events: int = 1, *, paid: int = 0, is_urgent: bool = False) -> Allowance:
        """Let `events` of a key through, all or none; 0 asks whether there is room for one, and takes nothing.

        `paid` of them were let through before, when less was known of the request; a refusal gives them back. What is
        urgent is not refused for what the others of its workspace have used up. Raises RateLimitExceeded.
        """
        if self._in_background and not self._background.is_running:
            self._background.start()
        now = self._clock()
        key = self._keys.get(identity.row_id) or self._key_window(identity)
        workspace = self._workspaces.get(identity.workspace_id) or self._workspace_window(identity)
        key_left = key.left(now) + paid * key.cost
        workspace_left = workspace.left(now) + paid * workspace.cost
        key_says_no = key_left < key.needed(events)
        workspace_says_no = workspace_left < workspace.needed(events) and not is_urgent
        if key_says_no or workspace_says_no:
            if key_says_no:
                key.refuse(now)
            if workspace_says_no:
                workspace.refuse(now)
            key.buy(-paid, now)
            workspace.buy(-paid, now)
        else:
            key.buy(events - paid, now)
            workspace.buy(events - paid, now)
            key_left -= events * key.cost
            workspace_left -= events * workspace.cost
        if not (key.is_noted and workspace.is_noted):
            self._note(key)
            self._note(workspace)
        if self._sharing and (key.unreported > _HURRY_SECONDS or workspace.unreported > _HURRY_SECONDS):
            self._background.hurry()
        allowance = _allowance(
            key.policy and key.state(key_left, now, self._kind),
            workspace.policy and workspace.state(workspace_left, now, _WORKSPACE),
            (key.policy, workspace.policy),
        )
        if key_says_no or workspace_says_no:
            key_wait = key.wait_for(events, now) if key_says_no else 0.0
            workspace_wait = workspace.wait_for(events, now) if workspace_says_no else 0.0
            if key_wait >= workspace_wait:
                raise self._refusal(self._credential.called, key.limit, events, key_wait, allowance)
            raise self._refusal(_WORKSPACE, workspace.limit, events, workspace_wait, allowance)
        return allowance

    def _refusal(
        self, called: str, limit: int, events: int, wait_seconds: float, allowance: Allowance
    ) -> RateLimitExceeded:
        units = self._credential.units
        seconds = max(1, ceil(wait_seconds))
        later = f"Repeat the same request in {seconds} second{'s' if seconds > 1 else ''}"
        message = f"This {called} may send {limit} {units} per second, and this request is more than is left. {later}."
        if events > limit * SPAN_SECONDS:
            message = (
                f"This request counts as {events} {units}, and its {called} may send {limit} per second: it is taken"
                f" only while nothing of that is used. {later}, or send fewer {units} at once."
            )
        return RateLimitExceeded(message, retry_after_seconds=seconds, headers=allowance.headers)

    def _note(self, window: Window) -> None:
        if not window.is_noted:
            window.is_noted = True
            self._noted.append(window)

    def _key_window(self, identity: Identity) -> Window:
        row = identity.row_id
        with self._mutex:
            limit = self._limit_of_key(row, identity.workspace_id)
            return _added(self._keys, row, Window(identity.public_id, self._kind, limit, identity.workspace_id))

    def _limit_of_key(self, row: int, workspace_row: int) -> int | None:
        """Its own, or its workspace's for each of its keys, or the installation's."""
        of_workspace = self._overrides.keys_by_workspace.get(workspace_row, self._rates.key)
        return self._overrides.keys.get(row, of_workspace)

    def _workspace_window(self, identity: Identity) -> Window:
        row = identity.workspace_id
        with self._mutex:
            limit = self._overrides.workspaces.get(row, self._rates.workspace)
            return _added(self._workspaces, row, Window(f"{self._credential.workspaces}_{row}", _WORKSPACE, limit, row))

    def step(self) -> None:
        """What is done beside the road, ten times a second."""
        now = self._clock()
        if now >= self._overrides_due:
            self._overrides_due = now + _OVERRIDES_SECONDS
            self.learn_overrides()
        self.synchronise()
        if now >= self._sweep_due:
            self._sweep_due = now + _SWEEP_SECONDS
            if self._sharing:
                self._sharing.probe()
            self.sweep()

    def synchronise(self) -> None:
        """Tell the others what was let through here, and learn what they let through.

        Only of limits that somebody has asked for since the last time, and that are worth it.
        """
        windows = [window for window in self._taken_notes() if window.is_worth_telling]
        for first in range(0, len(windows), _REPORTS_PER_CALL):
            some = windows[first : first + _REPORTS_PER_CALL]
            now = self._clock()
            reports = [window.report(now) for window in some]
            standings = self._sharing.settle(reports) if self._sharing else None
            now = self._clock()
            for window, standing in zip(some, standings or (), strict=False):
                window.learn(standing, now)

    def _taken_notes(self) -> Iterator[Window]:
        """The noted windows; whoever buys from one after it was taken notes it again."""
        for _ in range(len(self._noted)):
            window = self._noted.popleft()
            window.is_noted = False
            yield window

    def learn_overrides(self) -> None:
        """Read who has a limit of its own; while the database is away, what was read last goes on."""
        try:
            overrides = self._read_overrides()
        except StorageUnavailable:
            return
        with self._mutex:
            before, self._overrides = self._overrides, overrides
            keys = {row for row, _ in before.keys.items() ^ overrides.keys.items()}
            in_workspaces = {row for row, _ in before.keys_by_workspace.items() ^ overrides.keys_by_workspace.items()}
            if in_workspaces:  # seldom: then all keys that send are looked at, else only those that changed
                keys.update(row for row, window in self._keys.items() if window.workspace_row in in_workspaces)
            for row in keys & self._keys.keys():
                window = self._keys[row]
                window.set_limit(self._kind, self._limit_of_key(row, window.workspace_row))
            for row, _ in before.workspaces.items() ^ overrides.workspaces.items():
                if row in self._workspaces:
                    limit = overrides.workspaces.get(row, self._rates.workspace)
                    self._workspaces[row].set_limit(_WORKSPACE, limit)

    def sweep(self) -> int:
        """Forget whoever has not sent for a while; returns how many."""
        now = self._clock()
        swept = 0
        for windows in (self._keys, self._workspaces):
            # The copy is one step of the interpreter; the lock is held for one window at a time, not for all.
            for row, window in list(windows.items()):
                if window.is_idle(now):
                    with self._mutex:
                        if window.is_idle(now) and windows.get(row) is window:
                            del windows[row]
                            swept += 1
        return swept


def _added(windows: dict[int, Window], row: int, window: Window) -> Window:
    """`window`, or the one that another thread has added meanwhile."""
    if len(windows) >= _WINDOWS_MAX:
        del windows[next(iter(windows))]
    return windows.setdefault(row, window)


def _allowance(key_state: str, workspace_state: str, policies: tuple[str, str]) -> Allowance:
    if key_state and workspace_state:
        return Allowance(f"{policies[0]}, {policies[1]}", f"{key_state}, {workspace_state}")
    return Allowance(policies[0] or policies[1], key_state or workspace_state)
