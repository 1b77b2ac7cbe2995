"""Reads the body of a batch, `{"events": [...]}` or one event a line (NDJSON), each event as a single one is read.

What is wrong with one event is that event's matter; what is wrong with the body is everybody's.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

import msgspec

from app.errors import Fault, Refusal, SchemaValidationFailed
from app.exact_json import pointer_token, read_object
from app.ingest.common_envelope import read_common_envelope
from app.ingest.envelope import Envelope, read_envelope

NDJSON: Final = "application/x-ndjson"
EVENTS_MAX: Final = 1000


class _Wire(msgspec.Struct, forbid_unknown_fields=True):
    events: list[msgspec.Raw]


_BATCHES: Final = msgspec.json.Decoder(_Wire)
_LISTS: Final = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Batch:
    """The events in order: what could be read of each, or what is wrong with it."""

    events: list[Envelope | Refusal]
    fingerprint: bytes
    """Equal for equal contents, in either form of the body."""


def read_batch(body: bytes, media_type: str, *, is_atomic: bool) -> Batch:
    """The batch in a body of `media_type`.

    Raises BadRequest if it is no JSON, SchemaValidationFailed if it is no batch of 1 to 1,000 events.
    """
    texts = [line for line in body.split(b"\n") if line.strip()] if media_type == NDJSON else _elements(body)
    if not 1 <= len(texts) <= EVENTS_MAX:
        fault = Fault("/events", f"Must hold 1 to {EVENTS_MAX} events, not {len(texts)}.")
        raise SchemaValidationFailed(faults=(fault,))
    events = [_read(text) for text in texts]
    digest = hashlib.sha256(b"atomic batch" if is_atomic else b"batch")
    for event, text in zip(events, texts, strict=True):
        # An event that cannot be read has no values to compare; its text stands for it.
        digest.update(event.fingerprint if isinstance(event, Envelope) else hashlib.sha256(text.strip()).digest())
    return Batch(events, digest.digest())


def _read(text: bytes) -> Envelope | Refusal:
    try:
        return read_common_envelope(text) or read_envelope(read_object(text))
    except Refusal as refusal:
        return refusal


def _elements(body: bytes) -> list[bytes]:
    try:
        texts = [bytes(raw) for raw in _BATCHES.decode(body).events]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _elements_exactly(body)
    # msgspec keeps the last of two members of one name. Around the elements there are the two quotes of one name, and
    # no backslash that could hide another.
    quotes, backslashes = sum(it.count(b'"') for it in texts), sum(it.count(b"\\") for it in texts)
    if body.count(b'"') - quotes != 2 or body.count(b"\\") != backslashes:
        return _elements_exactly(body)
    return texts


def _elements_exactly(body: bytes) -> list[bytes]:
    """As _elements, slower, and able to say what is wrong."""
    document = read_object(body)
    faults = [fault for fault in document.faults if fault.pointer.count("/") == 1]
    unknown = [name for name in document.values if name != "events"]
    faults += [Fault(f"/{pointer_token(name)}", "This member is not known; a batch has events.") for name in unknown]
    if not isinstance(document.values.get("events"), list):
        faults.append(Fault("/events", "Must be a list of events."))
    if faults:
        raise SchemaValidationFailed(faults=tuple(faults))
    return [bytes(raw) for raw in _LISTS.decode(document.texts["events"].encode())]
