"""What travels on the ingest road: the envelope of one event, the attempt around it, and the receipt it ends in."""

import json
import re
import unicodedata
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from marshmallow import RAISE, Schema, ValidationError, fields, post_load, validate
from msgspec import Struct

from app.errors import Fault, PayloadTooLarge, SchemaValidationFailed
from app.exact_json import JsonObject, fingerprint, pointer_token

PAYLOAD_BYTES_MAX: Final = 262_144
_EVENT_ID_CHARACTERS_MAX: Final = 128
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp", "Zs"})
SEVERITIES: Final = ("debug", "info", "warning", "error", "critical")

EVENT_TYPE: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
# ISO 8601's calendar dates and times, extended or basic; RFC 3339 allows the small letters. Spelt out, because Python's
# own reader takes more, and more with each version.
_TIME = r"(?:[01]\d|2[0-3])(?::?[0-5]\d(?::?[0-5]\d(?:[.,]\d{1,9})?)?)?"
_TIMESTAMP = re.compile(rf"\d{{4}}-?\d\d-?\d\d(?:[Tt ]{_TIME}(?:[Zz]|[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?)?)?", re.ASCII)


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
    """The web page's that it comes from, if a browser says so (key_policies.origin_of)."""
    counted_under: UUID | None = None
    """The attempt under which usage counts this one, should it store nothing; set when it is first made."""

    @property
    def event_id(self) -> str:
        """The producer's event id, or ours."""
        return self.envelope.event_id or f"evt_{self.event_uid}"

    @property
    def receipt_head(self) -> str:
        """The receipt up to its status, which the database adds: it alone knows which."""
        return f'{{"accepted": true, "event_id": {json.dumps(self.event_id)}, "status": "'


def receipt_end(status: str) -> str:
    """What follows an attempt's receipt_head."""
    return f'{status}"}}'


class Receipt(Struct, frozen=True, gc=False):
    """A 2xx answer: exactly these bytes are recorded for the Idempotency-Key and sent again to whoever repeats it."""

    status: int
    body: str
    is_replay: bool = False


class _Text(fields.String):
    """A string of JSON; marshmallow's own would also take bytes."""

    default_error_messages = {"invalid": "Must be a string.", "null": "Must be a string."}  # noqa: RUF012


class _EventId(_Text):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, attr, data, **kwargs)
        if not 1 <= len(text) <= _EVENT_ID_CHARACTERS_MAX or any(map(_is_invisible, text)):
            raise ValidationError("Must be 1 to 128 visible characters.")
        return text


def _is_invisible(character: str) -> bool:
    """White space, control and formatting characters, and what has no character; not what Unicode may add yet."""
    return not "!" <= character <= "~" and unicodedata.category(character) in _INVISIBLE


class _Timestamp(_Text):
    """ISO 8601 with an offset, or without one and then UTC; kept to the microsecond."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        if (moment := read_moment(text)) is None:
            raise ValidationError("Must be an ISO 8601 time such as 2026-06-01T10:00:00Z.")
        return moment


def read_moment(text: str) -> datetime | None:
    """The moment, in UTC, that an ISO 8601 text names; None if it names none."""
    try:
        moment = datetime.fromisoformat(text.upper() if _TIMESTAMP.fullmatch(text) else "")
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _check_event_type(text: str) -> None:
    if not EVENT_TYPE.fullmatch(text):
        raise ValidationError("Must be segments of letters, digits, _ and -, joined by dots, such as payment.failed.")


class EnvelopeSchema(Schema):
    """The body of POST /v1/events/ingest."""

    class Meta:
        unknown = RAISE

    error_messages = {"unknown": "This member is not known; see the list of fields."}  # noqa: RUF012

    event_id = _EventId(
        metadata={
            "description": "Yours, single per source, of visible characters; ours if absent.",
            "minLength": 1,
            "maxLength": _EVENT_ID_CHARACTERS_MAX,
            "pattern": r"^\S+$",
            "format": "visible",
        }
    )
    event_type = _Text(
        required=True,
        validate=[validate.Length(1, 200), _check_event_type],
        # In the document as ECMA-262 has it; Python's $ would let a line break follow.
        metadata={"pattern": f"^{EVENT_TYPE.pattern}$"},
    )
    source_id = _Text(required=True, metadata={"description": "The source that the key belongs to."})
    environment = _Text(metadata={"description": "The source's environment."})
    # No default in the document: generators make a member required that has one.
    severity = _Text(validate=validate.OneOf(SEVERITIES), metadata={"description": "info, if absent."})
    timestamp = _Timestamp(
        metadata={
            "format": "date-time",
            "description": "When it happened; when we received it, if absent. ISO 8601; UTC if it names no offset.",
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
