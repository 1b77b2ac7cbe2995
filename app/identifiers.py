"""Makes ids: public ids of resources, time-ordered ids of events, ids of requests. Knows no database."""

import os
import re
import secrets
import string
import time
from collections import deque
from typing import Final
from uuid import UUID

from app.concurrency.fork import reset_after_fork

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
# A client's own request id must break no log line and no header, and must hold no key or token: it stands in the log
# and in the audit log as it is.
_REQUEST_ID: Final = re.compile(r"(?!.*lrb_(?:sk|mt)_)[A-Za-z0-9._:-]+")
# Before the search: servers let 400 KB through, and one may come with each request.
_REQUEST_ID_CHARACTERS_MAX: Final = 128
# 16 base62 characters are 95 random bits: ids of strangers cannot be guessed, collisions do not happen.
_RANDOM_CHARACTERS = 16


# A call of the system's generator releases the interpreter to another thread: under load, twice for each event. So one
# call supplies many ids.
_SUPPLY_BYTES: Final = 4_096
_PIECE_BYTES: Final = 16
_supply: deque[bytes] = deque()
# Else a child would make the ids that its parent makes.
reset_after_fork(_supply, deque.clear)


def random_bytes() -> bytes:
    """16 bytes of the system's generator."""
    try:
        return _supply.pop()
    except IndexError:
        fresh = os.urandom(_SUPPLY_BYTES)
        _supply.extend(
            fresh[begin : begin + _PIECE_BYTES] for begin in range(_PIECE_BYTES, _SUPPLY_BYTES, _PIECE_BYTES)
        )
        return fresh[:_PIECE_BYTES]


def random_text(length: int) -> str:
    """`length` base62 characters from the system's generator, 5.95 bits each."""
    return "".join(secrets.choice(BASE62) for _ in range(length))


def new_public_id(kind: str) -> str:
    """`prj` → `prj_9fKx2…`; one word to double-click."""
    return f"{kind}_{random_text(_RANDOM_CHARACTERS)}"


def uuid7() -> UUID:
    """A UUIDv7 (RFC 9562 §5.7): 48 bits of Unix milliseconds, then 74 random bits.

    Python has it from 3.14 on. Time-ordered ids keep the inserts of one moment on one page of an index.
    """
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(random_bytes()[:10])
    value = (milliseconds << 80) | random
    value &= ~((0xF << 76) | (0x3 << 62))
    return UUID(int=value | (0x7 << 76) | (0x2 << 62))


def request_id_from(proposed: str | None) -> str:
    """The client's X-Request-ID if it can be logged, else ours."""
    if proposed and len(proposed) <= _REQUEST_ID_CHARACTERS_MAX and _REQUEST_ID.fullmatch(proposed):
        return proposed
    return f"req_{random_bytes().hex()}"
