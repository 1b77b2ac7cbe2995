"""Bounds how many threads of a process do one costly thing at a time, and how many of them for one client."""

import threading
from collections import Counter, deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from app.errors import StorageUnavailable


@dataclass(slots=True, eq=False)
class _Waiter:
    client: Hashable
    admitted: threading.Event = field(default_factory=threading.Event)


class ConcurrencyLimit:
    """At most `at_once` holders, of which one client has at most `at_once_per_client`.

    Waiting is bounded in time and, for one client, in number. The first who waits is the first who is admitted, but
    that clients take turns: a long queue of one keeps no other one waiting for more than a holder's time.
    """

    def __init__(
        self, at_once: int, *, at_once_per_client: int, waiting_per_client: int, wait_seconds: float, busy: str
    ) -> None:
        self._free = at_once
        self._at_once_per_client = at_once_per_client
        self._waiting_per_client = waiting_per_client
        self._wait_seconds = wait_seconds
        self._busy = busy
        self._held: Counter[Hashable] = Counter()
        self._waiting: deque[_Waiter] = deque()
        self._mutex = threading.Lock()

    @contextmanager
    def held(self, client: Hashable) -> Iterator[None]:
        """Be one of the holders while the block runs; raises StorageUnavailable if too many others are or wait."""
        self._acquire(client)
        try:
            yield
        finally:
            with self._mutex:
                self._release(client)

    def _acquire(self, client: Hashable) -> None:
        with self._mutex:
            # Whoever waits may not be admitted now: of that, _release() has made sure. So nobody is overtaken here.
            if self._may_hold(client):
                self._take(client)
                return
            if sum(waiter.client == client for waiter in self._waiting) >= self._waiting_per_client:
                raise StorageUnavailable(self._busy)
            waiter = _Waiter(client)
            self._waiting.append(waiter)
        if waiter.admitted.wait(self._wait_seconds):
            return
        with self._mutex:
            if waiter.admitted.is_set():  # in the last moment
                return
            self._waiting.remove(waiter)
        raise StorageUnavailable(self._busy)

    def _release(self, client: Hashable) -> None:
        self._free += 1
        self._held[client] -= 1
        if not self._held[client]:
            del self._held[client]
        able = [waiter for waiter in self._waiting if self._may_hold(waiter.client)]
        waiter = next((waiter for waiter in able if waiter.client != client), able[0] if able else None)
        if waiter is not None:
            self._waiting.remove(waiter)
            self._take(waiter.client)
            waiter.admitted.set()

    def _may_hold(self, client: Hashable) -> bool:
        return self._free > 0 and self._held[client] < self._at_once_per_client

    def _take(self, client: Hashable) -> None:
        self._free -= 1
        self._held[client] += 1
