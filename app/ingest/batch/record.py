"""The idempotency record of a whole batch: claimed before its events are written, answered when they are.

In the same table and under the same keys as single events' records: a key names one request of a source, whatever its
kind.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

import msgspec

from app.credentials.verification import Identity
from app.database.advisory_locks import workspace_lock
from app.errors import IdempotencyInProgress, IdempotencyKeyReused, StorageUnavailable
from app.ingest.acceptance import Client
from app.ingest.envelope import Receipt
from app.ingest.storage import Execute, Outcome

_BEGIN: Final = "SELECT set_config('lock_timeout', %s, true), pg_advisory_xact_lock_shared(%s)"
_BEGIN_ALONE: Final = "SELECT set_config('lock_timeout', %s, true), pg_advisory_xact_lock(%s)"
# What is asked of each event (migrations/versions/0015_timestamp_policy.py), but for what only the event itself tells.
_JUDGE: Final = """
    SELECT coalesce(refusal, refuse_place(allowed_origins, allowed_networks, %s, %s))
    FROM judge_callers_3(%s::jsonb, statement_timestamp(), NULL)
"""
_SOURCE: Final = """
    SELECT source.project_id, source.id AS source_id
    FROM source_keys AS key JOIN sources AS source ON source.id = key.source_id WHERE key.id = %s
"""
# An expired record that is not purged yet is overwritten. Time is PostgreSQL's, and the statement begins behind the
# barrier: what was committed under it lies before.
_CLAIM: Final = f"""
    INSERT INTO idempotency_records AS record (project_id, source_id, idempotency_key, fingerprint, event_uid,
        response_status, response_body, created_at, expires_at)
    SELECT project_id, source_id, %s, %s, %s, 200, '', statement_timestamp(), statement_timestamp() + %s
    FROM ({_SOURCE}) AS source
    ON CONFLICT (project_id, source_id, idempotency_key) DO UPDATE SET
        fingerprint = excluded.fingerprint, event_uid = excluded.event_uid,
        response_status = excluded.response_status, response_body = excluded.response_body,
        created_at = excluded.created_at, expires_at = excluded.expires_at
        WHERE record.expires_at <= excluded.created_at
    RETURNING 1
"""
_FIND: Final = f"""
    SELECT record.fingerprint, record.event_uid, record.response_body
    FROM ({_SOURCE}) AS source JOIN idempotency_records AS record USING (project_id, source_id)
    WHERE record.idempotency_key = %s
"""
_ANSWER: Final = f"""
    UPDATE idempotency_records AS record SET response_body = %s FROM ({_SOURCE}) AS source
    WHERE record.project_id = source.project_id AND record.source_id = source.source_id
        AND record.idempotency_key = %s
"""
# The batch that is repeated after an unanswered commit is counted once.
_COUNT: Final = f"""
    INSERT INTO usage_outbox (project_id, usage_uid, source_id, source_key_id, outcome, events, payload_bytes,
        received_at, addresses)
    SELECT project_id, %s, source_id, %s, 'replayed', %s, %s, statement_timestamp(), %s::text[]
    FROM ({_SOURCE}) AS source
    ON CONFLICT DO NOTHING
"""


def begin(
    execute: Execute, identity: Identity, client: Client, lock_wait_seconds: float, *, is_alone: bool
) -> Outcome | None:
    """Hold the workspace's barrier for this transaction; why the key may not send from there, or None if it may.

    With `is_alone` every earlier transaction has ended, also one whose outcome is unknown.
    Raises StorageUnavailable while the workspace is being changed.
    """
    statement = _BEGIN_ALONE if is_alone else _BEGIN
    try:
        execute(statement, (f"{max(1, int(lock_wait_seconds * 1000))}ms", workspace_lock(identity.workspace_id)))
    except IdempotencyInProgress as error:
        # Nothing but the barrier is waited for here.
        raise StorageUnavailable from error.__cause__
    caller = {"caller": 0, "key_row": identity.row_id, "key_id": identity.public_id}
    callers = msgspec.json.encode([caller]).decode()
    ((refusal,),) = execute(_JUDGE, (client.address or None, client.origin, callers))
    return Outcome(refusal) if refusal else None


class BatchRecord:
    """One batch's claim on its Idempotency-Key, within one transaction."""

    def __init__(self, execute: Execute, identity: Identity, idempotency_key: str, batch_uid: UUID) -> None:
        self._execute = execute
        self._key_row = identity.row_id
        self._idempotency_key = idempotency_key
        self._batch_uid = batch_uid

    def claim(self, fingerprint: bytes, ttl_seconds: int) -> Receipt | None:
        """Claim the key; or the answer on record: a replay, unless this very batch wrote it.

        Raises IdempotencyKeyReused, and psycopg's LockNotAvailable as long as another transaction holds the claim.
        """
        claimed = self._execute(
            _CLAIM,
            (self._idempotency_key, fingerprint, self._batch_uid, timedelta(seconds=ttl_seconds), self._key_row),
        )
        if claimed:
            return None
        # Another transaction may have taken the record away since; then the batch is simply made again.
        for found, uid, body in self._execute(_FIND, (self._key_row, self._idempotency_key)):
            if bytes(found) != fingerprint:
                raise IdempotencyKeyReused
            return Receipt(200, body, is_replay=uid != self._batch_uid)
        return self.claim(fingerprint, ttl_seconds)

    def is_ours(self) -> bool:
        """Whether this very batch has committed its record."""
        found = self._execute(_FIND, (self._key_row, self._idempotency_key))
        return any(uid == self._batch_uid for _, uid, _ in found)

    def answer(self, body: str) -> None:
        """Record what the batch is answered."""
        self._execute(_ANSWER, (body, self._key_row, self._idempotency_key))

    def count_replay(self, payload_bytes: Sequence[int], address: str) -> None:
        """Leave the usage of a replay: of each event that was accepted the first time, its payload's size."""
        if payload_bytes:
            counts = (len(payload_bytes), sum(payload_bytes))
            addresses = [address] if address else None
            self._execute(_COUNT, (self._batch_uid, self._key_row, *counts, addresses, self._key_row))
