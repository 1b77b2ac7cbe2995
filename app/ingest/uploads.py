"""How many bodies may be on their way into a process: a body that stalls holds its thread, and nothing can free it.

WSGI knows no time-out for reading a body. So each key has a few of the process's threads for bodies that are not there
yet, and all keys together not all of them: whoever stalls its uploads holds up itself. A body that arrived with its
headers, as nearly all do, is on its way for some microseconds.
"""

import threading
from collections.abc import Callable
from typing import Final

from app.errors import StorageUnavailable

_PER_KEY_MAX: Final = 16
# Below the number of server threads (app/embedded/product.py): health and management have some in any case.
_IN_ALL_MAX: Final = 96
_BUSY: Final = "Nothing was stored: too many uploads are under way. Send whole bodies at once, or repeat it later."


class Uploads:
    """Counts the bodies that are being read."""

    def __init__(self, *, per_key_max: int = _PER_KEY_MAX, in_all_max: int = _IN_ALL_MAX) -> None:
        self._per_key_max = per_key_max
        self._in_all_max = in_all_max
        self._in_all = 0
        self._by_key: dict[int, int] = {}
        self._mutex = threading.Lock()

    def read(self, key_row: int, read_body: Callable[[], bytes]) -> bytes:
        """The body that `read_body` reads. Raises StorageUnavailable at once if too many are being read."""
        with self._mutex:
            of_key = self._by_key.get(key_row, 0)
            if of_key >= self._per_key_max or self._in_all >= self._in_all_max:
                raise StorageUnavailable(_BUSY)
            self._by_key[key_row] = of_key + 1
            self._in_all += 1
        try:
            return read_body()
        finally:
            with self._mutex:
                self._in_all -= 1
                if self._by_key[key_row] == 1:
                    del self._by_key[key_row]
                else:
                    self._by_key[key_row] -= 1
