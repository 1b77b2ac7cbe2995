"""Reads the Idempotency-Key header, for ingest and the management API."""

import re

from app.errors import BadRequest

# 255 characters, each escaped, in quotes, between spaces. Servers let 400 KB through, which take 0.3 s to read.
_HEADER_CHARACTERS_MAX = 1_024
_MALFORMED = "Idempotency-Key must be 1 to 255 visible ASCII characters, bare or in double quotes."
_VISIBLE_ASCII = re.compile(r"[!-~]{1,255}")
_QUOTED_KEY = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')


def is_idempotency_key(text: str) -> bool:
    """Whether `text` can be an Idempotency-Key, without its quotes."""
    return _VISIBLE_ASCII.fullmatch(text) is not None


def read_idempotency_key(header: str | None) -> str | None:
    """The key in an Idempotency-Key header: 1 to 255 visible ASCII characters, bare or as a quoted string (RFC 8941).

    A comma is allowed inside quotes only: a server joins two header lines with one. Raises BadRequest.
    """
    if header is None:
        return None
    if len(header) > _HEADER_CHARACTERS_MAX:
        raise BadRequest(_MALFORMED)
    key = header.strip(" \t")
    if key.startswith('"'):
        quoted = _QUOTED_KEY.fullmatch(key)
        key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else ""
    elif "," in key:
        raise BadRequest("Idempotency-Key holds a comma: send the header once, or put a key with a comma in quotes.")
    if not is_idempotency_key(key):
        raise BadRequest(_MALFORMED)
    return key
