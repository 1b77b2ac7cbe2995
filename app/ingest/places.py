"""How many batches a process works on at a time: a batch of 5 MiB takes some 30 MiB while it is read and stored."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from app.errors import StorageUnavailable

_WAIT_SECONDS: Final = 1.0


class Places:
    """A bounded number of places, and a bounded wait for one."""

    def __init__(self, places_max: int) -> None:
        self._free = threading.BoundedSemaphore(places_max)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold a place. Raises StorageUnavailable if none comes free within a second."""
        if not self._free.acquire(timeout=_WAIT_SECONDS):
            raise StorageUnavailable("Nothing was stored: too many batches are under way. Repeat the same batch later.")
        try:
            yield
        finally:
            self._free.release()
