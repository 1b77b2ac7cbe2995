"""What HTTP itself asks of a request, where servers differ: the method's letters, one Host, transfer codings.

A server may refuse such a request before we see it (docs/operations.md); here all are alike. Knows no HTTP framework.
"""

import re
from collections.abc import Mapping, MutableMapping
from functools import lru_cache
from typing import Any, Final

from app.errors import BadRequest, NotFound, Refusal, UnsupportedTransferCoding

# RFC 3986 §3.2.2 without user information: what names a host, and none of the characters that join or end one.
_HOST: Final = re.compile(r"(?:\[[0-9A-Za-z:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]+)(?::[0-9]*)?")


def is_odd(environ: Mapping[str, Any]) -> bool:
    """Whether refusal_of() must look at it."""
    return not _is_host(environ.get("HTTP_HOST", ""))


def refusal_of(environ: Mapping[str, Any]) -> Refusal | None:
    """Why the request with this WSGI environment is refused whatever it asks for; None if it is not."""
    coding = environ.get("HTTP_TRANSFER_ENCODING", "chunked")
    # RFC 9112 §6.1: what is coded in a way that we do not know cannot be understood as what it says.
    if coding.strip().lower() != "chunked":
        return UnsupportedTransferCoding()
    # RFC 9112 §3.2: a request of HTTP/1.1 has one, and a second one, or another form, is an attempt to be two requests.
    # Two of them arrive joined by a comma, which no host has.
    host = environ.get("HTTP_HOST", "")
    if (host or environ.get("SERVER_PROTOCOL") == "HTTP/1.1") and not _is_host(host):
        return BadRequest("Send exactly one Host header, with a host name and nothing else but a port.")
    # The framework would pass over all slashes at the beginning.
    return NotFound() if environ["PATH_INFO"].startswith("//") else None


def forget_upgrade(environ: MutableMapping[str, Any]) -> None:
    """As a server may (RFC 9110 §7.8). The framework would take it for a WebSocket on a route that is none."""
    environ.pop("HTTP_UPGRADE", None)


@lru_cache(maxsize=1_024)
def _is_host(text: str) -> bool:
    return _HOST.fullmatch(text) is not None


def is_misspelt(environ: Mapping[str, Any]) -> bool:
    """Whether the method is one of ours but for its letters, which matter (RFC 9110 §9.1)."""
    method: str = environ["REQUEST_METHOD"]
    return method != method.upper()
