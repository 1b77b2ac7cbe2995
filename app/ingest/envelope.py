"""The values of the ingest path: the envelope of one event, the attempt to store it, and the receipt."""

import json
import re
import unicodedata
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from marshmallow import ValidationError, fields, post_load, validate
from msgspec import Struct

from app.errors import Fault, PayloadTooLarge, SchemaValidationFailed
from app.web.schema_fields import InputSchema, MomentField, TextField
from app.wire.exact_json import JsonObject, fingerprint, pointer_token

PAYLOAD_BYTES_MAX: Final = 262_144
NOT_AN_EVENT: Final = (
    "An event is an object; several go to /v1/events/ingest/batch, as a list called events or as lines."
)
_EVENT_ID_CHARACTERS_MAX: Final = 128
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp", "Zs"})
SEVERITIES: Final = ("debug", "info", "warning", "error", "critical")

EVENT_TYPE: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


# What is made for every event is a Struct: made in a third of the time that a frozen dataclass takes.
class Envelope(Struct, frozen=True, kw_only=True, gc=False):
    """One event as the producer sent it."""

    event_type: str
    source_id: str
    payload: bytes
    """The payload's own JSON text in UTF-8: never decoded and encoded again."""
    event_id: str | None = None
    environment: str | None = None
    severity: str = "info"
    occurred_at: datetime | None = None
    fingerprint: bytes
    """Says whether two envelopes have the same content, see exact_json.fingerprint."""

    def __repr__(self) -> str:
        """Without the payload: what a producer sends is not for logs and tracebacks."""
        return f"Envelope(event_type={self.event_type!r}, source_id={self.source_id!r}, event_id={self.event_id!r})"


class Attempt(Struct, kw_only=True, gc=False):
    """One request to store one event: the envelope, the caller's name for the attempt, and our own marks."""

    envelope: Envelope
    idempotency_key: str | None
    event_uid: UUID
    """Names this attempt and, if it succeeds, the event. Repeating the attempt with the same uid is safe."""
    address: str = ""
    """Where it comes from (client_address.py); "" if that is not known."""
    origin: str | None = None
    """Of the web page that sends, if a browser names it (policies.origin_of)."""
    counted_under: UUID | None = None
    """The attempt under which usage counts this one, should it store nothing; set when it is first made."""

    @property
    def event_id(self) -> str:
        """The producer's event id, or ours."""
        return self.envelope.event_id or f"evt_{self.event_uid}"

    @property
    def receipt_head(self) -> str:
        """The receipt up to its status, which the storage function adds."""
        return f'{{"accepted": true, "event_id": {json.dumps(self.event_id)}, "status": "'


def receipt_end(status: str) -> str:
    """What follows an attempt's receipt_head."""
    return f'{status}"}}'


class Receipt(Struct, frozen=True, gc=False):
    """The body of a 2xx: exactly these bytes are recorded for the Idempotency-Key and sent again to its retries."""

    status: int
    body: str
    is_replay: bool = False


class _EventId(TextField):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text: str = super()._deserialize(value, attr, data, **kwargs)
        if not 1 <= len(text) <= _EVENT_ID_CHARACTERS_MAX or any(map(_is_invisible, text)):
            raise ValidationError("Must be 1 to 128 visible characters.")
        return text


def _is_invisible(character: str) -> bool:
    """White space, control and formatting characters, and what has no character; not what Unicode may add yet."""
    return not "!" <= character <= "~" and unicodedata.category(character) in _INVISIBLE


def _check_event_type(text: str) -> None:
    if not EVENT_TYPE.fullmatch(text):
        raise ValidationError("Must be segments of letters, digits, _ and -, joined by dots, such as payment.failed.")


class EnvelopeSchema(InputSchema):
    """The body of POST /v1/events/ingest."""

    event_id = _EventId(
        metadata={
            "description": "Yours, single per source, of visible characters; ours if absent.",
            "minLength": 1,
            "maxLength": _EVENT_ID_CHARACTERS_MAX,
            "pattern": r"^\S+$",
            "format": "visible",
        }
    )
    event_type = TextField(
        required=True,
        validate=[validate.Length(1, 200), _check_event_type],
        # In the document as ECMA-262 has it; Python's $ would let a line break follow.
        metadata={"pattern": f"^{EVENT_TYPE.pattern}$"},
    )
    source_id = TextField(required=True, metadata={"description": "The source that the key belongs to."})
    environment = TextField(metadata={"description": "The source's environment."})
    # No default in the document: generators make a member required that has one.
    severity = TextField(validate=validate.OneOf(SEVERITIES), metadata={"description": "info, if absent."})
    timestamp = MomentField(
        metadata={
            "format": "date-time",
            "description": "When it happened; when we received it, if absent. RFC 3339, or a date of ISO 8601; UTC if"
            " it names no offset. A leap second is the beginning of the next second.",
        }
    )
    payload = fields.Dict(
        keys=fields.String(),
        required=True,
        metadata={
            "description": "Any JSON object of at most 256 KiB and 32 levels, without U+0000 and without numbers beyond"
            " a double (1.8e308) or of more than 1,000 characters; stored exactly.",
            "additionalProperties": True,
        },
        error_messages={"invalid": "Must be a JSON object.", "null": "Must be a JSON object."},
    )

    @post_load
    def _envelope(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        data["occurred_at"] = data.pop("timestamp", None)
        data.pop("payload")
        return data


_SCHEMA = EnvelopeSchema()


def read_envelope(document: JsonObject) -> Envelope:
    """The envelope in a parsed body.

    Raises SchemaValidationFailed with every fault at once, PayloadTooLarge if only the payload's size is wrong.
    """
    faults = list(document.faults)
    loaded: dict[str, Any] = {}
    try:
        loaded = _SCHEMA.load(document.values)
    except ValidationError as error:
        faults += [
            Fault(f"/{pointer_token(member)}", " ".join(map(str, messages)))
            for member, messages in error.normalized_messages().items()  # type: ignore[no-untyped-call]
        ]
    if faults:
        raise SchemaValidationFailed(faults=tuple(faults))
    payload = document.texts["payload"].encode()
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise PayloadTooLarge(
            f"payload is larger than {PAYLOAD_BYTES_MAX} bytes.",
            faults=(Fault("/payload", f"Must be at most {PAYLOAD_BYTES_MAX} bytes."),),
        )
    return Envelope(**loaded, payload=payload, fingerprint=fingerprint(document.values))
