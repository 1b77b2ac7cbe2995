"""One narrow function: a group of attempts goes in, one verdict each comes out, all in one statement.

Correctness rests on unique keys and on nothing else: idempotency_records (source, key) and event_ledger (source,
event id) are claimed by inserting, the event is only inserted for attempts that hold their claims, and whoever finds
a claim taken by a transaction that committed meanwhile is told so (`raced`) and must begin again.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec
from psycopg.errors import LockNotAvailable
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.credentials import Identity
from app.errors import IdempotencyInProgress
from app.ingest.envelope import Attempt, Receipt
from app.locks import share_workspace


class Outcome(StrEnum):
    """What became of an attempt; the refusals bear the code of the error they turn into."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    REPLAYED = "replayed"
    RESUMED = "resumed"
    """Already committed by this very attempt, whose first commit went unanswered."""
    RACED = "raced"
    """Another transaction took the claim and committed after our statement began: roll back and begin again."""
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


# The stages stand in the order in which they take their locks, and each sorts its rows: two groups can wait for each
# other's rows but never in a circle. Every look-up is by primary key; `judged` joins the few control rows of a key, so
# that revocation, expiry, disabling, archiving and suspension are read here, at the moment of writing.
#
# A key is named by its row and by its public id: after a restore of the database a row number may belong to another
# key, and a process that has been running since before must not store under it.
#
# What an attempt finds of its own it has committed before, in a commit whose answer was lost (`resumed`): that comes
# first, whatever has been revoked since. A duplicate or a replay leaves only its usage row, which is written once.
#
# An expired record that nobody has purged yet would make ON CONFLICT DO NOTHING skip in silence: it is overwritten.
_STORE = text("""
WITH item AS (
    SELECT * FROM json_to_recordset(CAST(:items AS json)) AS item (
        n integer, key_row bigint, key_id text, claimed_source text, claimed_environment text, idempotency_key text,
        fingerprint text, event_uid uuid, event_id text, event_type text, severity text, occurred_at timestamptz,
        payload jsonb, payload_bytes bigint, stored_body text, duplicate_body text)
),
judged AS (
    SELECT item.*, decode(item.fingerprint, 'base64') AS print,
        source_key.id AS source_key_id, source.id AS source_id, source.project_id, source.environment_id,
        source.workspace_id,
        CASE
            WHEN source_key.id IS NULL THEN 'invalid_source_key'
            WHEN source_key.revoked_at IS NOT NULL OR source_key.expires_at <= :received_at
                THEN 'invalid_source_key'
            WHEN workspace.status <> 'active' THEN 'workspace_suspended'
            WHEN source.disabled_at IS NOT NULL OR source.archived_at IS NOT NULL
                OR environment.archived_at IS NOT NULL OR project.archived_at IS NOT NULL THEN 'source_disabled'
            WHEN item.claimed_source <> source.public_id THEN 'source_mismatch'
            WHEN item.claimed_environment <> environment.name THEN 'environment_mismatch'
        END AS refusal
    FROM item
    LEFT JOIN source_keys AS source_key ON source_key.id = item.key_row AND source_key.public_id = item.key_id
    LEFT JOIN sources AS source ON source.id = source_key.source_id
    LEFT JOIN environments AS environment ON environment.id = source.environment_id
    LEFT JOIN projects AS project ON project.id = source.project_id
    LEFT JOIN workspaces AS workspace ON workspace.id = source.workspace_id
),
known AS (
    SELECT judged.*, record.response_status, record.response_body,
        CASE
            WHEN record.event_uid = judged.event_uid OR ledger.event_uid = judged.event_uid THEN 'resumed'
            WHEN judged.refusal IS NOT NULL THEN judged.refusal
            WHEN record.fingerprint = judged.print THEN 'replayed'
            WHEN record.fingerprint IS NOT NULL THEN 'idempotency_key_reused'
            WHEN ledger.fingerprint = judged.print THEN 'duplicate'
            WHEN ledger.fingerprint IS NOT NULL THEN 'duplicate_event'
            ELSE 'stored'
        END AS outcome
    FROM judged
    LEFT JOIN idempotency_records AS record
        ON record.project_id = judged.project_id AND record.source_id = judged.source_id
        AND record.idempotency_key = judged.idempotency_key AND record.expires_at > :received_at
    LEFT JOIN event_ledger AS ledger
        ON ledger.project_id = judged.project_id AND ledger.source_id = judged.source_id
        AND ledger.event_id = judged.event_id
),
recorded AS (
    INSERT INTO idempotency_records AS record (project_id, source_id, idempotency_key, fingerprint, event_uid,
        response_status, response_body, created_at, expires_at)
    SELECT project_id, source_id, idempotency_key, print, event_uid,
        CASE outcome WHEN 'stored' THEN 201 ELSE 200 END,
        CASE outcome WHEN 'stored' THEN stored_body ELSE duplicate_body END,
        :received_at, :expires_at
    FROM known WHERE outcome IN ('stored', 'duplicate') AND idempotency_key IS NOT NULL
    ORDER BY project_id, source_id, idempotency_key
    ON CONFLICT (project_id, source_id, idempotency_key) DO UPDATE SET
        fingerprint = excluded.fingerprint, event_uid = excluded.event_uid,
        response_status = excluded.response_status, response_body = excluded.response_body,
        created_at = excluded.created_at, expires_at = excluded.expires_at
        WHERE record.expires_at <= excluded.created_at
    RETURNING event_uid
),
claimed AS (
    SELECT known.* FROM known
    WHERE outcome IN ('stored', 'duplicate')
        AND (idempotency_key IS NULL OR event_uid IN (SELECT event_uid FROM recorded))
),
ledgered AS (
    INSERT INTO event_ledger (project_id, source_id, event_id, event_uid, fingerprint, received_at)
    SELECT project_id, source_id, event_id, event_uid, print, :received_at
    FROM claimed WHERE outcome = 'stored'
    ORDER BY project_id, source_id, event_id
    ON CONFLICT DO NOTHING
    RETURNING event_uid
),
written AS (
    INSERT INTO events (project_id, received_at, event_uid, workspace_id, environment_id, source_id, source_key_id,
        event_id, event_type, severity, occurred_at, payload)
    SELECT project_id, :received_at, event_uid, workspace_id, environment_id, source_id, source_key_id,
        event_id, event_type, severity, occurred_at, payload
    FROM claimed WHERE event_uid IN (SELECT event_uid FROM ledgered)
),
settled AS (
    SELECT known.*,
        CASE
            WHEN outcome = 'stored' AND event_uid NOT IN (SELECT event_uid FROM ledgered) THEN 'raced'
            WHEN outcome = 'duplicate' AND event_uid NOT IN (SELECT event_uid FROM claimed) THEN 'raced'
            ELSE outcome
        END AS verdict
    FROM known
),
used AS (
    INSERT INTO usage_outbox (project_id, usage_uid, source_id, source_key_id, outcome, payload_bytes, received_at)
    SELECT project_id, event_uid, source_id, source_key_id, verdict, payload_bytes, :received_at
    FROM settled WHERE verdict IN ('stored', 'duplicate', 'replayed')
    ON CONFLICT DO NOTHING
)
SELECT n, verdict,
    CASE verdict
        WHEN 'stored' THEN 201
        WHEN 'duplicate' THEN 200
        ELSE coalesce(response_status, 201)
    END AS response_status,
    CASE verdict
        WHEN 'stored' THEN stored_body
        WHEN 'duplicate' THEN duplicate_body
        ELSE coalesce(response_body, stored_body)
    END AS response_body
FROM settled ORDER BY n
""")
_ACCEPTED = (Outcome.STORED, Outcome.DUPLICATE, Outcome.REPLAYED, Outcome.RESUMED)


def store(
    session: Session,
    attempts: Sequence[tuple[Identity, Attempt]],
    *,
    workspace_id: int,
    received_at: datetime,
    idempotency_ttl_seconds: int,
) -> list[Verdict]:
    """Store a group of attempts, each with the identity of its source key; one verdict each, in order.

    No two attempts of a group may share an Idempotency-Key or an event id of one source. If a verdict is `raced`,
    the caller rolls back and begins again. Raises IdempotencyInProgress when another transaction holds a claim
    for longer than the session's lock_timeout.
    """
    # A statement of its own, before the one that judges: see locks.py.
    share_workspace(session, workspace_id)
    parameters = {
        "items": msgspec.json.encode([_item(n, *attempt) for n, attempt in enumerate(attempts)]).decode(),
        "received_at": received_at,
        "expires_at": received_at + timedelta(seconds=idempotency_ttl_seconds),
    }
    try:
        rows = session.execute(_STORE, parameters).all()
    except OperationalError as error:
        if isinstance(error.orig, LockNotAvailable) and "tuple" in (error.orig.diag.context or ""):
            raise IdempotencyInProgress from error
        raise
    return [_verdict(row) for row in rows]


def _item(n: int, identity: Identity, attempt: Attempt) -> dict[str, Any]:
    envelope = attempt.envelope
    payload = envelope.payload_text.encode()
    return {
        "n": n,
        "key_row": identity.row_id,
        "key_id": identity.public_id,
        "claimed_source": envelope.source_id,
        "claimed_environment": envelope.environment,
        "idempotency_key": attempt.idempotency_key,
        "fingerprint": base64.b64encode(envelope.fingerprint).decode(),
        "event_uid": attempt.event_uid,
        "event_id": attempt.event_id,
        "event_type": envelope.event_type,
        "severity": envelope.severity,
        "occurred_at": (envelope.occurred_at or attempt.received_at).isoformat(),
        "payload": msgspec.Raw(payload),
        "payload_bytes": len(payload),
        "stored_body": attempt.receipt_body("stored"),
        "duplicate_body": attempt.receipt_body("duplicate"),
    }


def _verdict(row: Any) -> Verdict:
    outcome = Outcome(row.verdict)
    if outcome not in _ACCEPTED:
        return Verdict(outcome, None)
    return Verdict(outcome, Receipt(row.response_status, row.response_body, outcome is Outcome.REPLAYED))
