"""Bounds how many threads of a process do one costly thing at once, in all and for each client."""

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
    """At most `at_once` holders, at most `at_once_per_client` of them for one client.

    A wait is bounded in time and, per client, in number. Waiters are admitted in order of arrival, except that a
    released slot goes to another client first: a long queue of one client delays another one by one holder's time.
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
        """Hold a slot for the length of the block. Raises StorageUnavailable(busy) if none comes free in time, or if
        too many of `client` wait already.
        """
        self._acquire(client)
        try:
            yield
        finally:
            with self._mutex:
                self._release(client)

    def _acquire(self, client: Hashable) -> None:
        with self._mutex:
            # _release() has admitted every waiter that could be admitted, so this request overtakes none.
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
            if waiter.admitted.is_set():  # between the time-out and the mutex
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
