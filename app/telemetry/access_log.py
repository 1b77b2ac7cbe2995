"""Access log of the fast path, on which structlog (80 µs a line) would cost more than any other step.

The lines have the fields, the order and the stream of request_log.py. They are buffered and written many at a time; a
process that is killed loses the buffered ones.
"""

import itertools
import logging
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from app.telemetry import metrics

SLOW_MILLISECONDS = 500
"""A request that took this long is always logged."""
# Sampling counts this many keys; then it begins anew.
_KEYS_MAX = 100_000
# Some seconds of the top rate. While standard error is not read, a write blocks, and beyond this the oldest are lost.
_LINES_MAX = 50_000
# Larger writes to a pipe that processes share may be interleaved (PIPE_BUF on Linux).
_WRITE_BYTES_MAX = 4096
_ROOT = logging.getLogger()
_ENCODER = msgspec.json.Encoder()


class RequestLine(msgspec.Struct, kw_only=True, gc=False):
    """A line with the fields in the order of request_log.py; no field may hold a secret.

    msgspec encodes a Struct in a seventh of the time of a sorted dict.
    """

    timestamp: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))
    level: str = "info"
    """`warning` if the status is 5xx."""
    event: str
    cause: str | msgspec.UnsetType = msgspec.UNSET
    """The inner error behind a refusal (problems.cause_of)."""
    cell: str | msgspec.UnsetType = msgspec.UNSET
    """If it has a name."""
    error_code: str | msgspec.UnsetType = msgspec.UNSET
    key: str | msgspec.UnsetType = msgspec.UNSET
    """Of an event."""
    method: str
    milliseconds: float
    path: str
    project: str | msgspec.UnsetType = msgspec.UNSET
    """Of a read."""
    remote_address: str
    request_id: str
    sampled_one_in: int | msgspec.UnsetType = msgspec.UNSET
    """How many requests the line represents, if more than one."""
    status: int
    token: str | msgspec.UnsetType = msgspec.UNSET
    """Of a read."""


class Sampling:
    """Which lines a process writes: all but a share of those of accepted requests."""

    def __init__(self, one_in: int | None = 1) -> None:
        """Log one in `one_in` accepted requests of a key; None: none of them."""
        self._one_in = one_in
        self._counters: dict[str, Iterator[int]] = defaultdict(itertools.count)

    def stands_for(self, event: str, key: str, milliseconds: float) -> int:
        """How many requests this line represents; 0: it is not written."""
        if self._one_in == 1 or event not in metrics.OUTCOMES or milliseconds >= SLOW_MILLISECONDS:
            return 1
        if self._one_in is None:
            return 0
        if len(self._counters) > _KEYS_MAX:
            self._counters.clear()
        # The first request of a key is logged, so that keys that seldom send show up at all.
        return 0 if next(self._counters[key]) % self._one_in else self._one_in


class RequestLines:
    """Buffers lines of any thread; `flush` writes them."""

    def __init__(self, sampling: Sampling, *, cell: str = "", lines_max: int = _LINES_MAX) -> None:
        self._sampling = sampling
        self._cell = cell or msgspec.UNSET
        self._lines: deque[RequestLine] = deque(maxlen=lines_max)
        self._writing = threading.Lock()

    def add(self, line: RequestLine) -> None:
        """Buffer the line, unless sampling leaves it out."""
        if not _ROOT.isEnabledFor(logging.WARNING if line.level == "warning" else logging.INFO):
            return
        key = "" if line.key is msgspec.UNSET else line.key
        if times := self._sampling.stands_for(line.event, key, line.milliseconds):
            if times > 1:
                line.sampled_one_in = times
            line.cell = self._cell
            self._lines.append(line)

    def flush(self) -> None:
        """Write the buffered lines, or drop them if that fails; returns at once if another thread is writing."""
        if not self._lines or not self._writing.acquire(blocking=False):
            return
        try:
            chunk = b""
            while self._lines:
                line = _ENCODER.encode(self._lines.popleft()) + b"\n"
                if len(chunk) + len(line) > _WRITE_BYTES_MAX:
                    sys.stderr.write(chunk.decode())
                    chunk = b""
                chunk += line
            sys.stderr.write(chunk.decode())
            sys.stderr.flush()
        except OSError:
            # The disk is full, or the reader is gone. Lines that are kept would fill the memory.
            self._lines.clear()
        finally:
            self._writing.release()


def sampled(times: int) -> dict[str, int]:
    """The field of a line that represents `times` requests."""
    return {"sampled_one_in": times} if times > 1 else {}
