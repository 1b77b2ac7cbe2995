"""How many bodies may hang on their way into a process: a body that stalls holds its thread, and nothing can free it.

WSGI knows no time-out for reading a body. So each key may have a few stalled bodies in a process, half of its threads
for a burst, and all keys together fewer than there are: whoever stalls its uploads holds up itself. A body that arrived
with its headers, as nearly all do, is read in microseconds.
"""

import threading
import time
from collections.abc import Callable
from itertools import count, islice
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
    """Knows which bodies are being read, and since when."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens = count()
        # Dictionaries keep the order of insertion: the oldest reading stands first.
        self._since: dict[int, float] = {}
        self._since_by_key: dict[int, dict[int, float]] = {}
        self._mutex = threading.Lock()

    def read(self, key_row: int, read_body: Callable[[], bytes]) -> bytes:
        """The body that `read_body` reads. Raises StorageUnavailable at once if too many have stalled."""
        now = self._clock()
        with self._mutex:
            of_key = self._since_by_key.setdefault(key_row, {})
            if _is_full(of_key, now, _STALLED_PER_KEY_MAX, _PER_KEY_MAX):
                raise StorageUnavailable(_BUSY)
            if _is_full(self._since, now, _STALLED_MAX, _MAX):
                raise StorageUnavailable(_BUSY)
            token = next(self._tokens)
            of_key[token] = self._since[token] = now
        try:
            return read_body()
        finally:
            with self._mutex:
                del self._since[token], of_key[token]
                if not of_key:
                    self._since_by_key.pop(key_row, None)


def _is_full(since: dict[int, float], now: float, stalled_max: int, all_max: int) -> bool:
    if len(since) < stalled_max:
        return False
    newest_of_those = next(islice(since.values(), stalled_max - 1, None))
    return len(since) >= all_max or now - newest_of_those > _STALLED_SECONDS
