"""Remembers what has been proven at a price (argon2), so that the price is paid once per process.

Single-flight: of many threads that bring the same unproven digest, one pays and the others wait for its result.
Bounded: in entries, and in how long a thread waits for another one's result.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.errors import StorageUnavailable

Value = TypeVar("Value")

# About 500 bytes an entry: 50 MB at the most, and more keys than one process will meet.
ENTRIES_MAX = 100_000
# How many used entries one eviction passes over: what it costs is bounded even when everything is in use.
_CHANCES_MAX = 64
# A run takes 20 ms; whoever has no result after a second is better told to come back.
_WAIT_SECONDS = 1.0
_BUSY = "Nothing was stored: too many keys are being proven at this moment. Repeat the same request later."


@dataclass(slots=True)
class _Entry(Generic[Value]):
    value: Value
    is_used: bool = False


@dataclass(slots=True)
class _Flight:
    lock: threading.Lock = field(default_factory=threading.Lock)
    passengers: int = 0


class WarmDigests(Generic[Value]):
    """A bounded memory from digest to value; whoever fills it does so in a flight.

    Read without a lock: one dict look-up and one store of a bool, each atomic in CPython with and without the GIL. So
    there is no list of who was used last; what is used has a mark, and a mark is a second chance when room is made.
    """

    def __init__(self, *, entries_max: int = ENTRIES_MAX) -> None:
        self._entries: dict[bytes, _Entry[Value]] = {}
        # The digests in the order in which they will be looked at when room is made. Guarded by the mutex, as is every
        # change of the entries; an entry never leaves them for a moment, so a reader finds it or it is gone.
        self._ring: deque[bytes] = deque()
        self._entries_max = entries_max
        self._flights: dict[bytes, _Flight] = {}
        self._mutex = threading.Lock()

    def get(self, digest: bytes) -> Value | None:
        entry = self._entries.get(digest)
        if entry is None:
            return None
        if not entry.is_used:  # Written once: cores that read the same entry do not fight for its cache line.
            entry.is_used = True
        return entry.value

    def put(self, digest: bytes, value: Value) -> None:
        with self._mutex:
            if digest not in self._entries:
                self._ring.append(digest)
            self._entries[digest] = _Entry(value)
            if len(self._entries) > self._entries_max:
                self._evict()

    def snapshot(self) -> list[tuple[bytes, Value]]:
        """All that is remembered at this moment."""
        with self._mutex:
            entries = list(self._entries.items())
        return [(digest, entry.value) for digest, entry in entries]

    @contextmanager
    def flight(self, digest: bytes) -> Iterator[Value | None]:
        """Hold the only flight for `digest`; yields what another thread has put meanwhile, or None.

        Raises StorageUnavailable when the flight before does not land in time.
        """
        with self._mutex:
            flight = self._flights.setdefault(digest, _Flight())
            flight.passengers += 1
        try:
            if not flight.lock.acquire(timeout=_WAIT_SECONDS):
                raise StorageUnavailable(_BUSY)
            try:
                yield self.get(digest)
            finally:
                flight.lock.release()
        finally:
            with self._mutex:
                flight.passengers -= 1
                if not flight.passengers:
                    self._flights.pop(digest, None)

    def _evict(self) -> None:
        digest = self._ring.popleft()
        for _ in range(_CHANCES_MAX):
            entry = self._entries[digest]
            if not entry.is_used:
                break
            entry.is_used = False
            self._ring.append(digest)
            digest = self._ring.popleft()
        del self._entries[digest]
