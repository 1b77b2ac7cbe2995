"""Bounds the bodies on their way into a process: under most servers, each one holds a thread until it has arrived.

WSGI has no time-out for reading a body. So bodies may hold a part of the threads, one workspace half of them, and fewer
once its bodies have stalled: a workspace that stalls its uploads delays its own. A body that came with its headers, as
nearly all do, is read in microseconds.
"""

import socket
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Self

from app.errors import StorageUnavailable

BODY_IS_WHOLE: Final = "lariba.body_is_whole"
"""In the WSGI environment: `wsgi.input` is in memory and holds the whole body."""
BODY_REFUSAL: Final = "lariba.body_refusal"
"""In the WSGI environment: the exception to raise where the body is read."""
ENDED_EARLY: Final = "The body ended before its end was due. Nothing was stored: send it again, whole."

_STALLED_SECONDS: Final = 1.0
# Of a body that is read only to its end. A client that still sends has sent something within a second.
_UNWANTED_BYTES_MAX: Final = 16 * 1024 * 1024
_UNWANTED_SECONDS: Final = 5.0
_UNWANTED_PAUSE_SECONDS: Final = 1.0
BUSY: Final = "Nothing was stored: too many uploads have stalled. Send whole bodies at once, or repeat it later."


@contextmanager
def patience(environ: Mapping[str, Any], seconds: float) -> Iterator[None]:
    """A block in which no read of the body waits longer than `seconds` for its next bytes, if the server allows it.

    gunicorn does, by the socket that it puts into the environment. A read that takes longer raises an OSError:
    TimeoutError, or BlockingIOError for 0 seconds.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyReadLimits:
    """How many bodies may be read at once, and how many of them may have taken longer than a second."""

    per_owner: int
    stalled_per_owner: int
    total: int
    stalled_total: int

    @classmethod
    def of_threads(cls, threads: int) -> Self:
        """For a server that reads each body on one of `threads`: an eighth is left to requests without a body."""
        return cls(
            per_owner=max(1, threads // 2),
            stalled_per_owner=max(1, threads // 8),
            total=max(1, threads * 7 // 8),
            stalled_total=max(1, threads * 3 // 4),
        )


class BodyReadLimiter:
    """Counts the bodies that are being read, in total and per owner: a workspace, or an unproven credential's id."""

    def __init__(self, limits: BodyReadLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._mutex = threading.Lock()
        # With the time at which each began, the oldest first.
        self._all: dict[_Reading, float] = {}
        self._by_owner: dict[Hashable, dict[_Reading, float]] = {}

    def reading(self, owner: Hashable) -> "_Reading":
        """A block that reads a body of `owner`. Raises StorageUnavailable if too many are being read already."""
        return _Reading(self, owner)

    def begin(self, reading: "_Reading") -> None:
        """Count it from now on. Raises StorageUnavailable."""
        limits = self._limits
        with self._mutex:
            now = self._clock()
            owned = self._by_owner.get(reading.owner)
            if (owned is not None and _is_full(owned, limits.per_owner, limits.stalled_per_owner, now)) or _is_full(
                self._all, limits.total, limits.stalled_total, now
            ):
                raise StorageUnavailable(BUSY)
            if owned is None:
                owned = self._by_owner[reading.owner] = {}
            owned[reading] = self._all[reading] = now

    def end(self, reading: "_Reading") -> None:
        """Count it no more."""
        with self._mutex:
            del self._all[reading]
            owned = self._by_owner[reading.owner]
            del owned[reading]
            if not owned:
                del self._by_owner[reading.owner]


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
    """Whether there are too many, or too many old ones; by age, because quick bodies in between change no age."""
    if len(readings) < stalled:
        return False
    if len(readings) >= at_once:
        return True
    # They are sorted by age, so if this one has stalled, all before it have.
    return now - next(islice(readings.values(), stalled - 1, None)) > _STALLED_SECONDS


def discard_rest(environ: Mapping[str, Any], limiter: BodyReadLimiter, *, waits: bool) -> None:
    """Read what is left of a body, up to a bound, where a read can have a time-out (gunicorn).

    A client that is still sending would see a closed connection, and not its refusal. What has stalled is given up, at
    once unless `waits`: gunicorn would wait for the rest, five seconds on a thread and two in its main loop, so that
    the refused bodies of one key would hold up a process.
    """
    connection: socket.socket | None = environ.get("gunicorn.socket")
    if connection is None:
        return
    try:
        with limiter.reading(None):
            is_at_end = _discard(environ, _UNWANTED_PAUSE_SECONDS if waits else 0.0)
    except StorageUnavailable:
        is_at_end = _discard(environ, 0.0)
    if not is_at_end:
        with suppress(OSError):
            # Not the method of an SSLSocket, which would end the encryption of the response too.
            socket.socket.shutdown(connection, socket.SHUT_RD)


def _discard(environ: Mapping[str, Any], pause_seconds: float) -> bool:
    """Whether the end was reached; reads on while the next bytes come within the pause."""
    size, deadline = 0, time.monotonic() + _UNWANTED_SECONDS
    with suppress(Exception), patience(environ, pause_seconds):  # the connection's error, or gunicorn's for a bad chunk
        while size < _UNWANTED_BYTES_MAX and time.monotonic() < deadline:
            if not (piece := environ["wsgi.input"].read(65_536)):
                return True
            size += len(piece)
    return False
