"""Wide lines for a road on which structlog's machinery (80 µs a line) would be the dearest part.

The same fields in the same order to the same stream as request_log.py writes them, gathered and written many at a time.
What is still gathered when a process is killed is lost; nothing else is.
"""

import logging
import re
import sys
import threading
from collections import deque
from datetime import UTC, datetime
from os import urandom

import msgspec

# What a caller's own request id may look like; anything else could break a log line or a header. And no key or token,
# for it stands in the log and in the audit trail as it is.
_SANE_REQUEST_ID = re.compile(r"(?!.*lrb_(?:sk|mt)_)[A-Za-z0-9._:-]{1,128}")
# A pipe takes no more in one piece (PIPE_BUF on Linux), and two processes may share one.
_PIECE_CHARACTERS_MAX = 4096
_ROOT = logging.getLogger()
_ENCODER = msgspec.json.Encoder()
_Line = tuple[datetime, str, dict[str, str | float]]


def request_id_from(proposed: str | None) -> str:
    """The caller's X-Request-ID if it is sane, else ours."""
    if proposed and _SANE_REQUEST_ID.fullmatch(proposed):
        return proposed
    return f"req_{urandom(16).hex()}"


class RequestLines:
    """Gathers lines from any thread; `flush` writes them."""

    def __init__(self) -> None:
        self._lines: deque[_Line] = deque()
        self._writing = threading.Lock()

    def note(self, event: str, **fields: str | float) -> None:
        """One line of level info; `fields` in alphabetical order, and none of them may hold a secret."""
        if _ROOT.isEnabledFor(logging.INFO):
            self._lines.append((datetime.now(UTC), event, fields))

    def flush(self) -> None:
        """Write what is gathered; returns at once if another thread is about it."""
        if not self._lines or not self._writing.acquire(blocking=False):
            return
        try:
            piece = ""
            while self._lines:
                line = _line(*self._lines.popleft())
                if len(piece) + len(line) > _PIECE_CHARACTERS_MAX:
                    sys.stderr.write(piece)
                    piece = ""
                piece += line
            sys.stderr.write(piece)
            sys.stderr.flush()
        finally:
            self._writing.release()


def _line(moment: datetime, event: str, fields: dict[str, str | float]) -> str:
    timestamp = moment.isoformat().replace("+00:00", "Z")
    return _ENCODER.encode({"timestamp": timestamp, "level": "info", "event": event} | fields).decode() + "\n"
