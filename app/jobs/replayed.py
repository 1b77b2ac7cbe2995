"""Makes the attempt to store an original once more, in another source."""

from datetime import UTC
from typing import Any, Final

import msgspec

from app.events.replays.origin import Origin, event_id_of, uid_of
from app.events.view import ShownEvent
from app.idempotency.fingerprint import fingerprint
from app.ingest.envelope import Attempt, Envelope
from app.wire.exact_json import read_object

_COMPACT: Final = -1


def attempt_of(original: ShownEvent, position: int, replay_id: str, source_id: str) -> Attempt:
    """The same for each try of one original in one replay.

    Its envelope is as a producer would send it: of the payload every digit, and no white space, which PostgreSQL has
    added. Nothing is judged here that ingest has judged before; what judges a new event is in the storage function.
    """
    origin = Origin(replay_id, original.id)
    payload = msgspec.json.format(bytes(original.payload), indent=_COMPACT)
    occurred_at = original.timestamp.astimezone(UTC)
    content: dict[str, Any] = {
        "event_id": event_id_of(origin),
        "event_type": original.event_type,
        "source_id": source_id,
        "severity": original.severity,
        "timestamp": occurred_at,
        "payload": read_object(payload).values,
    }
    envelope = Envelope(
        event_type=original.event_type,
        source_id=source_id,
        payload=payload,
        event_id=content["event_id"],
        severity=original.severity,
        occurred_at=occurred_at,
        fingerprint=fingerprint(content),
    )
    return Attempt(envelope=envelope, idempotency_key=None, event_uid=uid_of(origin, position))
