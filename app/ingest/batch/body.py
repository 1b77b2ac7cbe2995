"""Reads the body of a batch, `{"events": [...]}` or one event a line (NDJSON), each event as a single one is read.

What is wrong with one event rejects that event; what is wrong with the body refuses the batch.
"""

import hashlib
import re
from dataclasses import dataclass
from itertools import islice
from typing import Final

import msgspec

from app.errors import Fault, PayloadTooLarge, Refusal, SchemaValidationFailed
from app.idempotency.fingerprint import fingerprint_of_bytes
from app.ingest.batch.outline import BATCH_LEVELS_MAX, outline
from app.ingest.common_envelope import read_common_envelope
from app.ingest.envelope import NOT_AN_EVENT, Envelope, read_envelope
from app.wire.exact_json import read_object
from app.wire.json_scan import nests_deeper, quotes_around

NDJSON: Final = "application/x-ndjson"
EVENTS_MAX: Final = 1000
FAULTS_PER_EVENT_MAX: Final = 10

# A line with anything on it, from its first character on; blank lines are skipped.
_LINE: Final = re.compile(rb"[^ \t\r\n][^\n]*")
# One element more than a batch may have, and msgspec passes over the rest: a list of a million digits, which fits into
# 5 MiB, costs no more than one of a thousand events. As a list[Raw] it would take 150 MiB before it could be counted.
_Elements: Final = msgspec.defstruct(
    "_Elements", [(f"at_{n}", msgspec.Raw, msgspec.Raw()) for n in range(EVENTS_MAX + 1)], array_like=True
)


class _Wire(msgspec.Struct, forbid_unknown_fields=True):
    events: _Elements  # type: ignore[valid-type]


_BATCHES: Final = msgspec.json.Decoder(_Wire)


@dataclass(frozen=True, slots=True)
class Batch:
    """The events in order: what could be read of each, or what is wrong with it."""

    events: list[Envelope | Refusal]
    fingerprint: bytes
    """Equal for equal contents, in either form of the body."""


def read_batch(body: bytes, media_type: str, *, is_atomic: bool, event_bytes_max: int) -> Batch:
    """The batch in a body of `media_type`; an event larger than `event_bytes_max` is refused as a single one is.

    Raises BadRequest if it is no JSON, SchemaValidationFailed if it is no batch of 1 to 1,000 events.
    """
    texts = _lines(body) if media_type == NDJSON else _elements(body)
    if not 1 <= len(texts) <= EVENTS_MAX:
        found = len(texts) if len(texts) <= EVENTS_MAX else "more"
        fault = Fault("/events", f"Must hold 1 to {EVENTS_MAX} events, not {found}.")
        raise SchemaValidationFailed(faults=(fault,))
    events = [_read(text, event_bytes_max) for text in texts]
    digest = hashlib.sha256(b"atomic batch" if is_atomic else b"batch")
    for event, text in zip(events, texts, strict=True):
        # An event that cannot be read has no values to compare; its text stands for it.
        digest.update(event.fingerprint if isinstance(event, Envelope) else fingerprint_of_bytes(text))
    return Batch(events, digest.digest())


def _read(text: bytes, bytes_max: int) -> Envelope | Refusal:
    if len(text) > bytes_max:
        return PayloadTooLarge(f"The event is larger than {bytes_max} bytes.")
    try:
        return read_common_envelope(text) or read_envelope(read_object(text, NOT_AN_EVENT))
    except Refusal as refusal:
        # A copy that was never raised: an exception keeps the frames it passed alive, and with them all values of its
        # event; and half a MiB of text can hold a hundred thousand faults.
        return type(refusal)(refusal.message, faults=refusal.faults[:FAULTS_PER_EVENT_MAX])


def _lines(body: bytes) -> list[bytes]:
    return [match[0].rstrip(b" \t\r") for match in islice(_LINE.finditer(body), EVENTS_MAX + 1)]


def _elements(body: bytes) -> list[bytes]:
    if nests_deeper(body, BATCH_LEVELS_MAX):
        return outline(body, EVENTS_MAX)
    try:
        elements = msgspec.structs.astuple(_BATCHES.decode(body).events)
        # Msgspec does not look into what it passes over.
        str(body, "utf-8")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return outline(body, EVENTS_MAX)
    texts = [text for element in elements if (text := bytes(element))]
    # Around the elements stand the two quotes of one name.
    if len(texts) <= EVENTS_MAX and quotes_around(body, texts) != 2:
        return outline(body, EVENTS_MAX)
    return texts
