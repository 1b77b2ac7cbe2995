"""How many batches a process works on at a time: a batch of 5 MiB takes some 30 MiB while it is read and stored."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from app.errors import StorageUnavailable

_WAIT_SECONDS: Final = 1.0
_BUSY: Final = "Nothing was stored: too many batches are under way. Repeat the same batch later."


class Places:
    """A bounded number of places, and a bounded wait for one; no key has them all."""

    def __init__(self, places_max: int) -> None:
        self._max = places_max
        self._max_per_key = max(1, places_max - 1)
        self._taken: Counter[int] = Counter()
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, key_row: int) -> Iterator[None]:
        """Hold a place for this key. Raises StorageUnavailable if none comes free within a second."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_free(key_row), timeout=_WAIT_SECONDS):
                raise StorageUnavailable(_BUSY)
            self._taken[key_row] += 1
        try:
            yield
        finally:
            with self._changed:
                self._taken -= Counter({key_row: 1})
                self._changed.notify_all()

    def _is_free(self, key_row: int) -> bool:
        return self._taken.total() < self._max and self._taken[key_row] < self._max_per_key
