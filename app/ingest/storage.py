"""One narrow function: a group of attempts goes in, one verdict each comes out, in one statement.

The statement is the database function store_events (migrations/versions/0004_store_events.py), which says how it keeps
its promises: correctness rests on unique keys and on nothing else. This file knows how to speak with it.
"""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

import msgspec

from app.credentials import Identity
from app.ingest.envelope import Attempt, Receipt
from app.locks import workspace_lock

Execute = Callable[[str, Sequence[Any]], Sequence[Any]]
"""Runs a statement with its parameters (psycopg's placeholders) and returns its rows."""


class Outcome(StrEnum):
    """What became of an attempt; the refusals bear the code of the error they turn into."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    REPLAYED = "replayed"
    RESUMED = "resumed"
    """Already committed by this very attempt, whose first commit went unanswered."""
    RACED = "raced"
    """What stood in the way has vanished meanwhile; nothing was written: make the attempt again."""
    INVALID_SOURCE_KEY = "invalid_source_key"
    WORKSPACE_SUSPENDED = "workspace_suspended"
    SOURCE_DISABLED = "source_disabled"
    SOURCE_MISMATCH = "source_mismatch"
    ENVIRONMENT_MISMATCH = "environment_mismatch"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    DUPLICATE_EVENT = "duplicate_event"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one attempt, and its receipt if it was accepted."""

    outcome: Outcome
    receipt: Receipt | None


# The static names under which the road's lines stand in the log.
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
_ENCODER: Final = msgspec.json.Encoder()


def store(
    execute: Execute,
    attempts: Sequence[tuple[Identity, Attempt]],
    *,
    idempotency_ttl_seconds: int,
    lock_wait_seconds: float,
) -> list[Verdict]:
    """Store a group of attempts, each with the identity of its source key; one verdict each, in order.

    No two attempts of a group may share an Idempotency-Key of one source; event ids may repeat, the first one in order
    of the group is stored. Raises what `execute` raises: psycopg's LockNotAvailable when another transaction holds a
    claim or a workspace for longer than `lock_wait_seconds`.
    """
    callers: dict[tuple[Identity, str, str | None], int] = {}
    items = [
        _item(n, callers.setdefault((identity, it.envelope.source_id, it.envelope.environment), len(callers)), it)
        for n, (identity, it) in enumerate(attempts)
    ]
    # One moment for the whole group: the newest of its attempts' own.
    received_at = max(attempt.received_at for _, attempt in attempts)
    rows = execute(
        _STORE,
        (
            _ENCODER.encode([_caller(n, *caller) for caller, n in callers.items()]).decode(),
            _ENCODER.encode(items).decode(),
            # Sorted, so that two groups cannot wait for each other in a circle.
            sorted({workspace_lock(identity.workspace_id) for identity, _, _ in callers}),
            received_at,
            received_at + timedelta(seconds=idempotency_ttl_seconds),
            f"{max(1, int(lock_wait_seconds * 1000))}ms",
        ),
    )
    # Only what is not simply stored comes back.
    verdicts = [_STORED] * len(items)
    for n, verdict, response_status, response_body in rows:
        verdicts[n] = _verdict(Outcome(verdict), response_status, response_body)
    return [
        Verdict(Outcome.STORED, Receipt(201, it.receipt_body("stored"))) if verdict is _STORED else verdict
        for verdict, (_, it) in zip(verdicts, attempts, strict=True)
    ]


_STORED: Final = Verdict(Outcome.STORED, None)


def _caller(n: int, identity: Identity, source: str, environment: str | None) -> dict[str, Any]:
    return {
        "caller": n,
        "key_row": identity.row_id,
        "key_id": identity.public_id,
        "source": source,
        "environment": environment,
    }


def _item(n: int, caller: int, attempt: Attempt) -> dict[str, Any]:
    envelope = attempt.envelope
    return {
        "n": n,
        "caller": caller,
        "event_uid": attempt.event_uid,
        "event_id": attempt.event_id,
        "idempotency_key": attempt.idempotency_key,
        "fingerprint": base64.b64encode(envelope.fingerprint).decode(),
        "event_type": envelope.event_type,
        "severity": envelope.severity,
        "occurred_at": envelope.occurred_at,
        "payload": msgspec.Raw(envelope.payload),
        "payload_bytes": len(envelope.payload),
        "receipt": attempt.receipt_head,
    }


def _verdict(outcome: Outcome, response_status: int, response_body: str) -> Verdict:
    if outcome not in _ACCEPTED:
        return Verdict(outcome, None)
    return Verdict(outcome, Receipt(response_status, response_body, outcome is Outcome.REPLAYED))
