"""A bounded map from digests of credentials to what one process keeps of them, and one look-up at a time for each."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.errors import StorageUnavailable

Value = TypeVar("Value")

# About 400 bytes an entry: 40 MB at the most, and more credentials than one process will meet.
_ENTRIES_MAX = 100_000
# How many used entries one eviction passes over: its cost is bounded even when every entry is in use.
_CHANCES_MAX = 64
# An argon2 run takes 20 ms: a result that is not there after a second is far away.
_WAIT_SECONDS = 1.0
_BUSY = "Nothing was stored: too many keys are being proven at this moment. Repeat the same request later."


@dataclass(slots=True)
class _Entry(Generic[Value]):
    value: Value
    is_used: bool = False


@dataclass(slots=True)
class _Flight:
    lock: threading.Lock = field(default_factory=threading.Lock)
    threads: int = 0


class CredentialCache(Generic[Value]):
    """A bounded map from a credential's digest to `Value`, evicted by second chance.

    Read without a lock: one dict look-up and one store of a bool, each atomic in CPython with and without the GIL. An
    order of last use (LRU) would need a lock at each read; a mark on the entry does not.
    """

    def __init__(self, *, entries_max: int = _ENTRIES_MAX) -> None:
        self._entries: dict[bytes, _Entry[Value]] = {}
        # The digests in the order in which an eviction looks at them. The mutex guards it and every change of the
        # entries. An entry that gets a second chance never leaves the dict, so a reader always finds it.
        self._ring: deque[bytes] = deque()
        self._entries_max = entries_max
        self._flights: dict[bytes, _Flight] = {}
        self._mutex = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, digest: bytes) -> Value | None:
        """The value of `digest`, if it is cached."""
        entry = self._entries.get(digest)
        if entry is None:
            return None
        if not entry.is_used:  # Written once: cores that read the same entry do not fight for its cache line.
            entry.is_used = True
        return entry.value

    def put(self, digest: bytes, value: Value) -> None:
        """Cache `value`; evict another entry if there are too many."""
        with self._mutex:
            if digest not in self._entries:
                self._ring.append(digest)
            self._entries[digest] = _Entry(value)
            if len(self._entries) > self._entries_max:
                self._evict()

    @contextmanager
    def single_flight(self, digest: bytes) -> Iterator[Value | None]:
        """The value of `digest`; or None, to one thread at a time, which may put it while the others wait.

        Raises StorageUnavailable after a second of waiting.
        """
        if (value := self.get(digest)) is not None:
            yield value
            return
        with self._mutex:
            flight = self._flights.setdefault(digest, _Flight())
            flight.threads += 1
        try:
            if not flight.lock.acquire(timeout=_WAIT_SECONDS):
                raise StorageUnavailable(_BUSY)
            try:
                yield self.get(digest)
            finally:
                flight.lock.release()
        finally:
            with self._mutex:
                flight.threads -= 1
                if not flight.threads:
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
