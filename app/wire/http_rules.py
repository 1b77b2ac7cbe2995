"""Refuses what HTTP itself forbids, where servers differ: the method's case, the Host header, transfer codings.

A server may refuse such a request itself (docs/operations.md). What it passes on is refused here, the same under each
server. Knows no HTTP framework.
"""

import re
from collections.abc import Mapping, MutableMapping
from functools import lru_cache
from typing import Any, Final

from app.errors import BadRequest, NotFound, Refusal, UnsupportedTransferCoding

# A name has 253, a port 5. Servers let 400 KB through, and the cache would keep a thousand of them.
_HOST_CHARACTERS_MAX: Final = 300
# RFC 3986 §3.2.2 without user information: none of the characters that join or end a host.
_HOST: Final = re.compile(r"(?:\[[0-9A-Za-z:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]+)(?::[0-9]*)?")


def is_odd(environ: Mapping[str, Any]) -> bool:
    """Whether the Host header needs refusal_of(): the check of the fast path."""
    return not _is_host(environ.get("HTTP_HOST", ""))


def refusal_of(environ: Mapping[str, Any]) -> Refusal | None:
    """The refusal of a request that HTTP forbids, whatever it asks for; else None."""
    coding = environ.get("HTTP_TRANSFER_ENCODING", "chunked")
    # RFC 9112 §6.1: a body in an unknown coding cannot be understood.
    if coding.strip().lower() != "chunked":
        return UnsupportedTransferCoding()
    # RFC 9112 §3.2: a request of HTTP/1.1 has one Host. A second one, or another form, may smuggle a second request.
    # Two of them arrive joined by a comma, which no host has.
    host = environ.get("HTTP_HOST", "")
    if (host or environ.get("SERVER_PROTOCOL") == "HTTP/1.1") and not _is_host(host):
        return BadRequest("Send exactly one Host header, with a host name and nothing else but a port.")
    # The framework would ignore slashes at the beginning.
    return NotFound() if environ["PATH_INFO"].startswith("//") else None


def forget_upgrade(environ: MutableMapping[str, Any]) -> None:
    """Ignore an upgrade, as a server may (RFC 9110 §7.8). The framework would answer as if it were a WebSocket's."""
    environ.pop("HTTP_UPGRADE", None)


def _is_host(text: str) -> bool:
    return len(text) <= _HOST_CHARACTERS_MAX and _is_short_host(text)


@lru_cache(maxsize=1_024)
def _is_short_host(text: str) -> bool:
    return _HOST.fullmatch(text) is not None


def is_misspelt(environ: Mapping[str, Any]) -> bool:
    """Whether the method has small letters: methods are case-sensitive (RFC 9110 §9.1)."""
    method: str = environ["REQUEST_METHOD"]
    return method != method.upper()
