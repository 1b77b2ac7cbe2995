"""How many bodies may be on their way into a process: under most servers each holds a thread, and little can free it.

WSGI knows no time-out for reading a body. So of the server's threads, bodies may hold a part, one workspace half of
that part, and fewer once they have stalled: a workspace that stalls its uploads holds up itself. A body that came with
its headers, as nearly all do, is read in microseconds.
"""

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Self

from app.errors import StorageUnavailable

BODY_IS_WHOLE: Final = "lariba.body_is_whole"
"""In the WSGI environment: `wsgi.input` is in memory, and has all of the body."""
BODY_REFUSAL: Final = "lariba.body_refusal"
"""In the WSGI environment: the Refusal that whoever wants the body meets."""
ENDED_EARLY: Final = "The body ended before its end was due. Nothing was stored: send it again, whole."

_STALLED_SECONDS: Final = 1.0
BUSY: Final = "Nothing was stored: too many uploads have stalled. Send whole bodies at once, or repeat it later."


@contextmanager
def patience(environ: Mapping[str, Any], seconds: float) -> Iterator[None]:
    """A block in which no read of the body waits longer than that for its next bytes, if the server lets us say so.

    gunicorn does, by the socket that it puts into the environment. Then a read raises TimeoutError.
    """
    connection = environ.get("gunicorn.socket")
    if connection is None:
        yield
        return
    before = connection.gettimeout()
    connection.settimeout(seconds)
    try:
        yield
    finally:
        connection.settimeout(before)


@dataclass(frozen=True, slots=True)
class BodyReadLimits:
    """How many bodies may be read at once, and how many of them may have taken longer than a second."""

    of_one: int
    stalled_of_one: int
    of_all: int
    stalled_of_all: int

    @classmethod
    def of_threads(cls, threads: int) -> Self:
        """For a server that reads each body on one of `threads`: some are left to what brings no body."""
        return cls(
            of_one=max(1, threads // 2),
            stalled_of_one=max(1, threads // 8),
            of_all=max(1, threads * 7 // 8),
            stalled_of_all=max(1, threads * 3 // 4),
        )


class BodyReadLimiter:
    """Counts the bodies that are being read, in all and for each workspace (or whoever else a body belongs to)."""

    def __init__(self, limits: BodyReadLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._mutex = threading.Lock()
        # Since when, oldest first, because they are put in as they begin.
        self._all: dict[_Reading, float] = {}
        self._of_one: dict[Hashable, dict[_Reading, float]] = {}

    def reading(self, owner: Hashable) -> "_Reading":
        """A block that reads a body of `owner`. Raises StorageUnavailable if too many are under way already."""
        return _Reading(self, owner)

    def begin(self, reading: "_Reading") -> None:
        """Count it from now on. Raises StorageUnavailable."""
        limits = self._limits
        with self._mutex:
            now = self._clock()
            of_one = self._of_one.get(reading.owner)
            if (of_one is not None and _is_full(of_one, limits.of_one, limits.stalled_of_one, now)) or _is_full(
                self._all, limits.of_all, limits.stalled_of_all, now
            ):
                raise StorageUnavailable(BUSY)
            if of_one is None:
                of_one = self._of_one[reading.owner] = {}
            of_one[reading] = self._all[reading] = now

    def end(self, reading: "_Reading") -> None:
        """Count it no more."""
        with self._mutex:
            del self._all[reading]
            of_one = self._of_one[reading.owner]
            del of_one[reading]
            if not of_one:
                del self._of_one[reading.owner]


class _Reading:
    """A class, because it costs half of what @contextmanager does, and each event has one."""

    __slots__ = ("_limiter", "owner")

    def __init__(self, limiter: BodyReadLimiter, owner: Hashable) -> None:
        self._limiter = limiter
        self.owner = owner

    def __enter__(self) -> None:
        self._limiter.begin(self)

    def __exit__(self, *_: object) -> None:
        self._limiter.end(self)


def _is_full(readings: dict[_Reading, float], at_once: int, stalled: int, now: float) -> bool:
    """Whether there are too many, or too many old ones: by each one's age, whatever has come to its end meanwhile."""
    if len(readings) < stalled:
        return False
    if len(readings) >= at_once:
        return True
    # They stand by age, so enough have stalled if this one has.
    return now - next(islice(readings.values(), stalled - 1, None)) > _STALLED_SECONDS
