"""Wide lines for a road on which structlog's machinery (80 µs a line) would be the dearest part.

The same fields in the same order to the same stream as request_log.py writes them, gathered and written many at a time.
What is still gathered when a process is killed is lost; nothing else is.
"""

import itertools
import logging
import re
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from app.identifiers import random_bytes
from app.telemetry import metrics

SLOW_MILLISECONDS = 500
"""What took as long leaves its line in any case."""
# Of so many keys it is known whose turn it is; then it begins anew.
_KEYS_MAX = 100_000
# What a caller's own request id may look like; anything else could break a log line or a header. And no key or token,
# for it stands in the log and in the audit trail as it is.
_SANE_REQUEST_ID = re.compile(r"(?!.*lrb_(?:sk|mt)_)[A-Za-z0-9._:-]{1,128}")
# Some seconds of the top rate. While standard error is not read, a write does not end; beyond this the oldest are lost.
_GATHERED_MAX = 50_000
# A pipe takes no more in one piece (PIPE_BUF on Linux), and two processes may share one.
_PIECE_CHARACTERS_MAX = 4096
_ROOT = logging.getLogger()
_ENCODER = msgspec.json.Encoder()


class RequestLine(msgspec.Struct, kw_only=True, gc=False):
    """In the order in which request_log.py writes its fields, of level info; no field may hold a secret.

    A Struct is encoded in a seventh of the time that a dict takes, sorted.
    """

    timestamp: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))
    level: str = "info"
    event: str
    error_code: str | msgspec.UnsetType = msgspec.UNSET
    key: str
    method: str
    milliseconds: float
    path: str
    remote_address: str
    request_id: str
    sampled_one_in: int | msgspec.UnsetType = msgspec.UNSET
    """For how many requests it stands, if for more than one."""
    status: int


def request_id_from(proposed: str | None) -> str:
    """The caller's X-Request-ID if it is sane, else ours."""
    if proposed and _SANE_REQUEST_ID.fullmatch(proposed):
        return proposed
    return f"req_{random_bytes().hex()}"


class Sampling:
    """Which of a process's lines are written: all but those of accepted requests that went as they should."""

    def __init__(self, one_in: int | None = 1) -> None:
        """Of as many accepted requests of a key one leaves its line; None: none does."""
        self._one_in = one_in
        self._turns: dict[str, Iterator[int]] = defaultdict(itertools.count)

    def stands_for(self, event: str, key: str, milliseconds: float) -> int:
        """For how many requests this line stands; 0: it is left out."""
        if self._one_in == 1 or event not in metrics.OUTCOMES or milliseconds >= SLOW_MILLISECONDS:
            return 1
        if self._one_in is None:
            return 0
        if len(self._turns) > _KEYS_MAX:
            self._turns.clear()
        # A key's first one is written: so that those of a key that seldom sends are seen at all.
        return 0 if next(self._turns[key]) % self._one_in else self._one_in


class RequestLines:
    """Gathers lines from any thread; `flush` writes them."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._lines: deque[RequestLine] = deque(maxlen=_GATHERED_MAX)
        self._writing = threading.Lock()

    def note(self, line: RequestLine) -> None:
        """Gather the line, unless it is left out."""
        if not _ROOT.isEnabledFor(logging.INFO):
            return
        if times := self._sampling.stands_for(line.event, line.key, line.milliseconds):
            if times > 1:
                line.sampled_one_in = times
            self._lines.append(line)

    def flush(self) -> None:
        """Write what is gathered, or give it up; returns at once if another thread is about it."""
        if not self._lines or not self._writing.acquire(blocking=False):
            return
        try:
            piece = ""
            while self._lines:
                line = _ENCODER.encode(self._lines.popleft()).decode() + "\n"
                if len(piece) + len(line) > _PIECE_CHARACTERS_MAX:
                    sys.stderr.write(piece)
                    piece = ""
                piece += line
            sys.stderr.write(piece)
            sys.stderr.flush()
        except OSError:
            # The disk is full, or the reader is gone. Other lines are lost then too (logging), and if these were kept,
            # they would fill the memory.
            self._lines.clear()
        finally:
            self._writing.release()


def sampled(times: int) -> dict[str, int]:
    """What a line says of itself that stands for `times` requests."""
    return {"sampled_one_in": times} if times > 1 else {}
