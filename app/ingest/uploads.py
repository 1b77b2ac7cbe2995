"""How many bodies may hang on their way into a process: a body that stalls holds its thread, and nothing can free it.

WSGI knows no time-out for reading a body. So each key may have a few stalled bodies in a process, half of its threads
for a burst, and all keys together fewer than there are: whoever stalls its uploads holds up itself. A body that arrived
with its headers, as nearly all do, is read in microseconds.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from app.errors import StorageUnavailable

_STALLED_SECONDS: Final = 1.0
_STALLED_PER_KEY_MAX: Final = 16
_PER_KEY_MAX: Final = 64
# Below the 128 server threads of app/embedded/product.py: health and management have some in any case.
_STALLED_MAX: Final = 96
_MAX: Final = 112
_BUSY: Final = "Nothing was stored: too many uploads have stalled. Send whole bodies at once, or repeat it later."


class Uploads:
    """Counts the bodies that are being read."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._mutex = threading.Lock()
        self._all = _Tally(_STALLED_MAX, _MAX)
        self._by_key: dict[int, _Tally] = {}

    def reading(self, key_row: int) -> "_Reading":
        """A block that reads a body of this key. Entering it raises StorageUnavailable if too many have stalled."""
        return _Reading(self, key_row)

    def begin(self, key_row: int) -> None:
        with self._mutex:
            of_key = self._by_key.get(key_row)
            if of_key is None:
                of_key = self._by_key[key_row] = _Tally(_STALLED_PER_KEY_MAX, _PER_KEY_MAX)
            if of_key.is_full(self._clock) or self._all.is_full(self._clock):
                raise StorageUnavailable(_BUSY)
            of_key.reading += 1
            self._all.reading += 1

    def end(self, key_row: int) -> None:
        with self._mutex:
            of_key = self._by_key[key_row]
            of_key.end()
            self._all.end()
            if not of_key.reading:
                del self._by_key[key_row]


class _Reading:
    __slots__ = ("_key_row", "_uploads")

    def __init__(self, uploads: Uploads, key_row: int) -> None:
        self._uploads = uploads
        self._key_row = key_row

    def __enter__(self) -> None:
        self._uploads.begin(self._key_row)

    def __exit__(self, *_: object) -> None:
        self._uploads.end(self._key_row)


class _Tally:
    """How many bodies are being read, and since when there have been many of them and none has come to its end."""

    __slots__ = ("_max", "_since", "_stalled_max", "reading")

    def __init__(self, stalled_max: int, all_max: int) -> None:
        self.reading = 0
        self._stalled_max = stalled_max
        self._max = all_max
        self._since: float | None = None

    def is_full(self, clock: Callable[[], float]) -> bool:
        if self.reading < self._stalled_max:
            return False
        if self._since is None:
            self._since = clock()
        return self.reading >= self._max or clock() - self._since > _STALLED_SECONDS

    def end(self) -> None:
        self.reading -= 1
        self._since = None
