"""One narrow function: a group of attempts goes in, one verdict each comes out, in one statement.

The statement calls the stored function store_events (app/database/sql/store_events.sql), which says how it keeps its
promises. Here are its parameters and verdicts.
"""

from binascii import b2a_base64
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from app.credentials.verification import Identity
from app.database.advisory_locks import workspace_lock
from app.ingest.envelope import Attempt, Receipt, receipt_end
from app.telemetry import metrics

Execute = Callable[[str, Sequence[Any]], Sequence[Any]]
"""Runs a statement with its parameters (psycopg's placeholders) and returns its rows."""


class Outcome(StrEnum):
    """The result of an attempt; a refusal has the code of its error."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    REPLAYED = "replayed"
    RESUMED = "resumed"
    """Already committed by this very attempt, whose first commit went unanswered."""
    RACED = "raced"
    """What stood in the way has vanished meanwhile; nothing was written: make the attempt again."""
    HELD = "held"
    """A change of its workspace is under way; nothing was written: make the attempt again, and wait."""
    INVALID_SOURCE_KEY = "invalid_source_key"
    WRONG_CELL = "wrong_cell"
    WORKSPACE_MOVING = "workspace_moving"
    """The last part of its move to another cell is under way."""
    WORKSPACE_SUSPENDED = "workspace_suspended"
    SOURCE_DISABLED = "source_disabled"
    SOURCE_MISMATCH = "source_mismatch"
    ENVIRONMENT_MISMATCH = "environment_mismatch"
    EVENT_TYPE_NOT_ALLOWED = "event_type_not_allowed"
    ORIGIN_NOT_ALLOWED = "origin_not_allowed"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    DUPLICATE_EVENT = "duplicate_event"
    TIMESTAMP_OUT_OF_RANGE = "timestamp_out_of_range"


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """The outcome of one attempt, and its receipt if it was accepted."""

    outcome: Outcome
    receipt: Receipt | None
    detail: str = ""
    """Facts about a refusal, for the one that needs more than its name (verdicts.py)."""


# The static name of the log line, by outcome.
LOG_EVENTS: Final = {
    Outcome.STORED: "event_accepted",
    Outcome.RESUMED: "event_accepted",
    Outcome.DUPLICATE: "event_duplicate",
    Outcome.REPLAYED: "event_replayed",
}
_STORE: Final = (
    "SELECT n, verdict, response_status, response_body"
    " FROM store_events(%s::jsonb, %s::jsonb, %s::bigint[], %s, %s, %s)"
)
_ACCEPTED: Final = frozenset((Outcome.STORED, Outcome.DUPLICATE, Outcome.REPLAYED, Outcome.RESUMED))
# Of an event that is stored with the mark of a timestamp that is far from its receipt.
_MARKED: Final = "marked"
_ENCODER: Final = msgspec.json.Encoder()


def store(
    execute: Execute,
    attempts: Sequence[tuple[Identity, Attempt]],
    *,
    idempotency_ttl_seconds: int,
    lock_wait_seconds: float,
    waits: bool = True,
) -> list[Verdict]:
    """Store a group of attempts, each with the identity of its source key; one verdict each, in order.

    No two attempts of a group may share an Idempotency-Key of one source; event ids may repeat, the first one in order
    of the group is stored. With `waits=False` attempts of a workspace that is being changed are HELD and all others
    stored. Raises what `execute` raises: psycopg's LockNotAvailable when another transaction holds a claim or, if it
    `waits`, a workspace for longer than `lock_wait_seconds`.
    """
    callers: dict[tuple[Identity, str, str | None], int] = {}
    items: list[_Item] = []
    first = attempts[0][1].event_uid
    for identity, attempt in attempts:
        # For good: in whichever group it is repeated, the row of its first group counts it once.
        attempt.counted_under = attempt.counted_under or first
        caller = (identity, attempt.envelope.source_id, attempt.envelope.environment)
        items.append(_item(len(items), callers.setdefault(caller, len(callers)), attempt, first))
    rows = execute(
        _STORE,
        (
            _ENCODER.encode([_caller(n, *caller) for caller, n in callers.items()]).decode(),
            _ENCODER.encode(items).decode(),
            # Sorted, so that two groups cannot wait for each other in a circle.
            sorted({workspace_lock(identity.workspace_id) for identity, _, _ in callers}),
            timedelta(seconds=idempotency_ttl_seconds),
            f"{max(1, int(lock_wait_seconds * 1000))}ms",
            waits,
        ),
    )
    # Only what is not simply stored comes back.
    others = {n: _verdict(Outcome(verdict), status, body) for n, verdict, status, body in rows if verdict != _MARKED}
    if len(others) < len(rows):
        metrics.TIMESTAMPS_FAR.inc(len(rows) - len(others))
    return [
        others.get(item.n) or Verdict(Outcome.STORED, Receipt(201, item.receipt + receipt_end("stored")))
        for item in items
    ]


class _Item(msgspec.Struct, gc=False):
    """One attempt as store_events reads it; the names are the function's."""

    n: int
    caller: int
    event_uid: UUID
    counted_under: UUID | UnsetType | None
    """Left out if it is the first item's."""
    event_id: str
    idempotency_key: str | None
    fingerprint: str
    event_type: str
    severity: str
    occurred_at: datetime | None
    payload: msgspec.Raw
    payload_bytes: int
    receipt: str
    address: str | None
    origin: str | UnsetType


def _caller(n: int, identity: Identity, source: str, environment: str | None) -> dict[str, Any]:
    return {
        "caller": n,
        "key_row": identity.row_id,
        "key_id": identity.public_id,
        "barrier": workspace_lock(identity.workspace_id),
        "source": source,
        "environment": environment,
    }


def _item(n: int, caller: int, attempt: Attempt, first: UUID) -> _Item:
    envelope = attempt.envelope
    return _Item(
        n,
        caller,
        attempt.event_uid,
        UNSET if attempt.counted_under == first else attempt.counted_under,
        attempt.event_id,
        attempt.idempotency_key,
        b2a_base64(envelope.fingerprint, newline=False).decode(),
        envelope.event_type,
        envelope.severity,
        envelope.occurred_at,
        msgspec.Raw(envelope.payload),
        len(envelope.payload),
        attempt.receipt_head,
        attempt.address or None,
        UNSET if attempt.origin is None else attempt.origin,
    )


def _verdict(outcome: Outcome, response_status: int, response_body: str) -> Verdict:
    if outcome not in _ACCEPTED:
        return Verdict(outcome, None, response_body or "")
    return Verdict(outcome, Receipt(response_status, response_body, outcome is Outcome.REPLAYED))
