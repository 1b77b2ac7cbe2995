"""Reads the common envelope fast: what it takes, read_envelope takes too, with equal values (a property test holds it).

It decides only on what is common. The exact reader (exact_json.py and the schema in envelope.py) reads the rest, and
words every refusal. 7 µs instead of 70 (bench/prices.py).
"""

import re
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from app.ingest.envelope import EVENT_TYPE, PAYLOAD_BYTES_MAX, SEVERITIES, Envelope
from app.wire.exact_json import LEVELS_MAX, fingerprint
from app.wire.json_numbers import Kept, read_number
from app.wire.json_scan import nests_deeper, quotes_around
from app.wire.rfc3339 import read_common_moment

_EVENT_ID = re.compile(r"[!-~]{1,128}")
_EVENT_TYPE_CHARACTERS_MAX: Final = 200
# Every digit becomes a 0 and all else a space: a run of zeros is then found by a plain search, ten times faster than
# by a regular expression. An integer of 18 digits may have another canonical form than msgspec gives it.
_DIGITS: Final = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_MANY_DIGITS: Final = b"0" * 18


class _Wire(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The members as they come: text, never null; what is absent is no member of the content."""

    event_type: str
    source_id: str
    payload: msgspec.Raw
    event_id: str | UnsetType = UNSET
    environment: str | UnsetType = UNSET
    severity: str | UnsetType = UNSET
    timestamp: str | UnsetType = UNSET


class _UncommonError(Exception):
    """A number that the exact reader must look at."""


def _decimal(literal: str) -> int | msgspec.Raw:
    if "e" in literal or "E" in literal:
        raise _UncommonError
    return read_number(literal)


_ENVELOPES: Final = msgspec.json.Decoder(_Wire)
_PAYLOADS: Final = msgspec.json.Decoder(dict[str, Any], float_hook=Kept(_decimal).__getitem__)


def read_common_envelope(body: bytes) -> Envelope | None:
    """The envelope in `body`, or None if the exact reader must look at it. Never raises."""
    if nests_deeper(body, LEVELS_MAX):
        return None
    try:
        wire = _ENVELOPES.decode(body)
        payload = bytes(wire.payload)
        values: dict[str, Any] = {"event_type": wire.event_type, "source_id": wire.source_id}
        if wire.event_id is not UNSET:
            values["event_id"] = wire.event_id
        if wire.environment is not UNSET:
            values["environment"] = wire.environment
        if wire.severity is not UNSET:
            values["severity"] = wire.severity
        if wire.timestamp is not UNSET:
            values["timestamp"] = wire.timestamp
        if not _is_plain(body, payload, len(values)):
            return None
        values["payload"] = _PAYLOADS.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, _UncommonError):
        return None
    occurred_at = None if wire.timestamp is UNSET else read_common_moment(wire.timestamp)
    if (
        not 1 <= len(wire.event_type) <= _EVENT_TYPE_CHARACTERS_MAX
        or not EVENT_TYPE.fullmatch(wire.event_type)
        or (wire.event_id is not UNSET and not _EVENT_ID.fullmatch(wire.event_id))
        or (wire.severity is not UNSET and wire.severity not in SEVERITIES)
        or (wire.timestamp is not UNSET and occurred_at is None)
    ):
        return None
    return Envelope(
        event_type=wire.event_type,
        source_id=wire.source_id,
        payload=payload,
        event_id=None if wire.event_id is UNSET else wire.event_id,
        environment=None if wire.environment is UNSET else wire.environment,
        severity="info" if wire.severity is UNSET else wire.severity,
        occurred_at=occurred_at,
        fingerprint=fingerprint(values),
    )


def _is_plain(body: bytes, payload: bytes, texts: int) -> bool:
    """Whether no member came twice, and nothing in it needs a closer look.

    Outside the payload each of `texts` members has four quotes, and the payload's name has two. A quote within a text
    needs a backslash, and there is none.
    """
    return (
        len(payload) <= PAYLOAD_BYTES_MAX
        and quotes_around(body, (payload,)) == 4 * texts + 2
        and (b"\\" not in body or (body.count(b"\\") == payload.count(b"\\") and b"\\u" not in payload))
        and _MANY_DIGITS not in body.translate(_DIGITS)
    )
