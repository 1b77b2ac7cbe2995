"""Remembers what has been proven at a price (argon2), so that the price is paid once per process.

Single-flight: of many threads that bring the same unproven digest, one pays and the others wait for its result.
Bounded: in entries, in runs at a time, and in how long a thread waits for its turn.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.errors import StorageUnavailable

Value = TypeVar("Value")

# About 300 bytes an entry: 30 MB at the most, and more keys than one process will meet.
_ENTRIES_MAX = 100_000
# A run takes 20 ms; whoever has not had a turn after a second is better told to come back.
_TURN_WAIT_SECONDS = 1.0
_BUSY = "Nothing was stored: too many keys are being proven at this moment. Repeat the same request later."


@dataclass(slots=True)
class _Flight:
    lock: threading.Lock = field(default_factory=threading.Lock)
    passengers: int = 0


class WarmDigests(Generic[Value]):
    """A bounded, least-recently-used memory from digest to value, with single-flight filling."""

    def __init__(self, *, runs_max: int, entries_max: int = _ENTRIES_MAX) -> None:
        self._entries: OrderedDict[bytes, Value] = OrderedDict()
        self._entries_max = entries_max
        self._flights: dict[bytes, _Flight] = {}
        self._mutex = threading.Lock()
        self._turns = threading.BoundedSemaphore(runs_max)

    def get(self, digest: bytes) -> Value | None:
        with self._mutex:
            value = self._entries.get(digest)
            if value is not None:
                self._entries.move_to_end(digest)
            return value

    def put(self, digest: bytes, value: Value) -> None:
        with self._mutex:
            self._entries[digest] = value
            if len(self._entries) > self._entries_max:
                self._entries.popitem(last=False)

    @contextmanager
    def proving(self, digest: bytes) -> Iterator[Value | None]:
        """Hold the only flight for `digest`; yields what another thread has proven meanwhile, or None.

        Raises StorageUnavailable when no turn comes free in time.
        """
        with self._mutex:
            flight = self._flights.setdefault(digest, _Flight())
            flight.passengers += 1
        try:
            if not flight.lock.acquire(timeout=_TURN_WAIT_SECONDS):
                raise StorageUnavailable(_BUSY)
            try:
                yield from self._with_turn(digest)
            finally:
                flight.lock.release()
        finally:
            with self._mutex:
                flight.passengers -= 1
                if not flight.passengers:
                    self._flights.pop(digest, None)

    def _with_turn(self, digest: bytes) -> Iterator[Value | None]:
        meanwhile = self.get(digest)
        if meanwhile is not None:
            yield meanwhile
            return
        if not self._turns.acquire(timeout=_TURN_WAIT_SECONDS):
            raise StorageUnavailable(_BUSY)
        try:
            yield None
        finally:
            self._turns.release()
