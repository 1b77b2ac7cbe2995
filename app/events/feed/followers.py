"""Requests that wait until something comes, and the one thread of a process that asks PostgreSQL for all of them.

The application never waits itself: it leaves a Wait beside an empty response, and what serves it may hold the response
back, wait, and call the application again with the same environ: on an event loop (app/granian), or on the server's
thread (middleware.py). So a token is checked again after the wait, as before any response, and a server
that cannot wait, or not now, sends the response that it has. An event loop need not call the application for each of
hundreds (shared_answers.py).
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from app.concurrency.background import Background
from app.concurrency.fork import reset_after_fork
from app.config import Settings
from app.database.engine import Database, TenantScope
from app.errors import StorageUnavailable
from app.events.feed.cursors import Place
from app.events.feed.ending import is_ending
from app.events.feed.known_followers import Follower, KnownFollowers
from app.events.feed.news import News, Watched
from app.events.transactions import FewDays

WAIT: Final = "lariba.wait"
"""Where the application leaves a Wait in its environ."""
FOLLOWING: Final = "lariba.following"
"""Where it keeps, from call to call, what it knows of the request."""
FOLLOWERS: Final = "lariba.followers"
"""Where it finds the Followers of its process."""

_POLL_SECONDS: Final = 0.05
# Between two attempts while PostgreSQL is away; without followers the thread looks up as often.
_PAUSE_SECONDS: Final = 1.0
_DEADLINE_SECONDS: Final = 2.0
# Waits per thread of the setting: half of the connections that a process takes (app/granian/bounds.py).
_ON_LOOP_FACTOR: Final = 64
_THREADS_SHARE: Final = 4
# A busy project would answer each event alone. What a filter seldom admits is asked for less and less often.
GATHER_SECONDS: Final = 0.05
_GATHER_SECONDS_LONGEST: Final = 1.0
# What comes meanwhile goes with the same page. Few followers hear of each event at once; hundreds get about two pages a
# second each, or pages would take most of the interpreter.
_GATHER_SECONDS_EACH: Final = 0.002
_GATHER_SECONDS_MAX: Final = 0.4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Wait:
    """What a request waits for: an event of a project behind a position."""

    followers: "Followers" = field(repr=False)
    workspace_id: int
    project_row: int
    after: int
    until: float
    """In time.monotonic() seconds."""
    gather_seconds: float
    """How long to wait on at least when something has come."""
    follower: Follower | None = field(default=None, repr=False)
    """Whose answer can be made without the application; None: only the application can."""
    when_sent: Callable[[], object] = field(default=bool, repr=False)
    """To be called if the response is not held back, or not replaced by another one after the wait."""

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.until - time.monotonic())

    def behind(self, place: Place) -> "Wait":
        """As it goes on when there was nothing for it up to a place."""
        follower = self.follower and replace(self.follower, after=place)
        return replace(self, after=place.position, follower=follower, gather_seconds=slower(self.gather_seconds))


def slower(gather_seconds: float) -> float:
    """How long one gathers that was woken in vain."""
    return min(2 * gather_seconds, _GATHER_SECONDS_LONGEST)


class Places:
    """A number of waits, of which each workspace may have as many as are still free: half, if it is alone."""

    def __init__(self, number: int) -> None:
        self._free = number
        self._held: dict[int, int] = {}

    def are_left(self, workspace_id: int) -> bool:
        """Whether there is a place for this workspace."""
        return self._held.get(workspace_id, 0) < self._free

    def take(self, workspace_id: int) -> bool:
        """Whether there was a place for this workspace."""
        if not self.are_left(workspace_id):
            return False
        self._free -= 1
        self._held[workspace_id] = self._held.get(workspace_id, 0) + 1
        return True

    def give_back(self, workspace_id: int) -> None:
        self._free += 1
        self._held[workspace_id] -= 1
        if not self._held[workspace_id]:
            del self._held[workspace_id]


@dataclass(slots=True)
class _Held:
    """A wait that has begun."""

    woken: Callable[[], Any]
    places: Places
    is_woken: bool = False
    """Nothing is asked for it any more."""


class Followers:
    """The waits of one process; starts its thread at the first of them, in each forked child."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # A connection of its own: a follower hears of its events while all others of the pool are busy.
        self._database = Database(
            settings.database_url,
            pool_size=1,
            application_name="lariba-following",
            prepares=False,
            session={"jit": "off"},
        )
        self.known: Final = KnownFollowers()
        self._news = News()
        self._begin = partial(self._database.transaction, TenantScope.ALL, deadline_seconds=_DEADLINE_SECONDS)
        self._background = Background(
            self._poll, name="followers", pause_seconds=_PAUSE_SECONDS, pause_seconds_min=_POLL_SECONDS
        )
        self._reset()
        reset_after_fork(self, Followers._reset)

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._waits: dict[Wait, _Held] = {}
        # Whether the thread's last look at PostgreSQL worked.
        self._has_looked = True
        self._on_loop = Places(self._settings.server_threads * _ON_LOOP_FACTOR)
        self._on_threads = Places(max(1, self._settings.server_threads // _THREADS_SHARE))

    @property
    def database(self) -> Database:
        """For tests, which close it."""
        return self._database

    def have_place(self, workspace_id: int) -> bool:
        """Whether one more request of this workspace may begin to wait on an event loop now, before it has read.

        Not while the thread cannot look for news: such a request would hear of no event until its time is over, and
        one that reads first has at once what is there, or the refusal.
        """
        return self._has_looked and not is_ending() and self._on_loop.are_left(workspace_id)

    def add(self, wait: Wait, woken: Callable[[], Any], *, on_thread: bool) -> bool:
        """Call `woken`, on another thread, when the wait is to end before its time; False if none may begin now."""
        places = self._on_threads if on_thread else self._on_loop
        with self._mutex:
            if is_ending() or not places.take(wait.workspace_id):
                return False
            self._waits[wait] = _Held(woken, places)
        self._background.start()
        self._background.hurry()
        return True

    def gather_seconds(self, wait: Wait) -> float:
        """How long a wait that was woken goes on, for what comes with the event: longer where many would be woken."""
        if is_ending():
            return 0.0
        for_all = min(len(self._waits) * _GATHER_SECONDS_EACH, _GATHER_SECONDS_MAX)
        return min(max(wait.gather_seconds, for_all), wait.seconds_left)

    def go_on(self, wait: Wait, further: Wait, woken: Callable[[], Any]) -> bool:
        """Let what add() has begun go on as a further wait, with the same place; False if none may."""
        with self._mutex:
            if is_ending():
                return False
            self._waits[further] = _Held(woken, self._waits.pop(wait).places)
        self._background.hurry()
        return True

    def remove(self, wait: Wait) -> None:
        """After add(), once; after go_on(), the further one."""
        with self._mutex:
            self._waits.pop(wait).places.give_back(wait.workspace_id)

    def _poll(self) -> None:
        with self._mutex:
            waits = [wait for wait, held in self._waits.items() if not held.is_woken]
        if not waits:
            return
        if is_ending():
            self._wake(waits)
        else:
            has_looked = False
            try:
                with FewDays(self._begin) as transactions:
                    newest = self._news.newest(transactions, _watched(waits))
                has_looked = True
            except StorageUnavailable:
                return  # the requests themselves say so when they read
            finally:
                self._has_looked = has_looked
            self._wake([wait for wait in waits if wait.after < newest.get(wait.project_row, 0)])
        self._background.hurry()

    def _wake(self, waits: list[Wait]) -> None:
        with self._mutex:
            woken = [self._waits[wait] for wait in waits if wait in self._waits]
        for held in woken:
            held.is_woken = True
            held.woken()


def _watched(waits: list[Wait]) -> list[Watched]:
    """Each project once, from where the first of its followers is."""
    first: dict[tuple[int, int], int] = {}
    for wait in waits:
        key = wait.workspace_id, wait.project_row
        first[key] = min(wait.after, first.get(key, wait.after))
    return [Watched(workspace, project, after) for (workspace, project), after in first.items()]
