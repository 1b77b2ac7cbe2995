"""The idempotency record of a whole batch: claimed before its events are written, answered when they are.

In the same table and under the same keys as single events' records: a key names one request of a source, whatever its
kind.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from app.credentials.verification import Identity
from app.database.advisory_locks import workspace_lock
from app.errors import IdempotencyInProgress, StorageUnavailable
from app.idempotency.claims import claim_statement, require_same_content
from app.ingest.acceptance import Client
from app.ingest.envelope import Receipt
from app.ingest.storage import Execute, Outcome

# The workspace's barrier, on its row (app/database/advisory_locks.py). Where that row is missing, the key's is missing
# too, and it is refused.
_BEGIN: Final = """
    SELECT set_config('lock_timeout', %s, true), pg_advisory_xact_lock_shared(%s) FROM workspaces WHERE id = %s
"""
_BEGIN_ALONE: Final = """
    SELECT set_config('lock_timeout', %s, true), pg_advisory_xact_lock(%s) FROM workspaces WHERE id = %s
"""
# What each event is asked (app/database/sql/policies.sql), except for what depends on the event itself.
_JUDGE: Final = """
    SELECT coalesce(refusal, refuse_client_origin(allowed_origins, allowed_networks, %s, %s)), project_id, source_id
    FROM judge_callers(%s::jsonb, statement_timestamp(), NULL)
"""
# The time is PostgreSQL's: the statement begins behind the barrier, so it is later than what was committed under it.
_CLAIM: Final = claim_statement(
    "idempotency_records",
    key=("project_id", "source_id", "idempotency_key"),
    given=("workspace_id", "fingerprint", "event_uid"),
    constants={"response_status": "200", "response_body": "''"},
    now="statement_timestamp()",
)
_FIND: Final = """
    SELECT fingerprint, event_uid, response_body FROM idempotency_records
    WHERE project_id = %s AND source_id = %s AND idempotency_key = %s
"""
_ANSWER: Final = """
    UPDATE idempotency_records SET response_body = %s
    WHERE project_id = %s AND source_id = %s AND idempotency_key = %s
"""
# The batch that is repeated after an unanswered commit is counted once.
_COUNT: Final = """
    INSERT INTO usage_outbox (project_id, usage_uid, workspace_id, source_id, source_key_id, outcome, events,
        payload_bytes, received_at, addresses)
    VALUES (%s, %s, %s, %s, %s, 'replayed', %s, %s, statement_timestamp(), %s::text[])
    ON CONFLICT DO NOTHING
"""


class KeySource(NamedTuple):
    """The rows of a key's source; both None for a key that is not there, which is refused."""

    project_id: int
    source_id: int


def begin(
    execute: Execute, identity: Identity, client: Client, lock_wait_seconds: float, *, is_alone: bool
) -> tuple[Outcome | None, KeySource]:
    """Hold the workspace's barrier for this transaction; why the key may not send from there (None: it may), and its
    source.

    With `is_alone` every earlier transaction has ended, also one whose outcome is unknown.
    Raises StorageUnavailable while the workspace is being changed.
    """
    statement = _BEGIN_ALONE if is_alone else _BEGIN
    try:
        lock_timeout = f"{max(1, int(lock_wait_seconds * 1000))}ms"
        execute(statement, (lock_timeout, workspace_lock(identity.workspace_id), identity.workspace_id))
    except IdempotencyInProgress as error:
        # Nothing but the barrier is waited for here.
        raise StorageUnavailable from error.__cause__
    caller = {"caller": 0, "key_row": identity.row_id, "key_id": identity.public_id}
    callers = msgspec.json.encode([caller]).decode()
    ((refusal, *source),) = execute(_JUDGE, (client.address or None, client.origin, callers))
    return Outcome(refusal) if refusal else None, KeySource(*source)


class BatchRecord:
    """One batch's claim on its Idempotency-Key, within one transaction."""

    def __init__(
        self, execute: Execute, identity: Identity, source: KeySource, idempotency_key: str, batch_uid: UUID
    ) -> None:
        self._execute = execute
        self._identity = identity
        self._source = source
        self._primary_key = (*source, idempotency_key)
        self._batch_uid = batch_uid

    def claim(self, fingerprint: bytes, ttl_seconds: int) -> Receipt | None:
        """Claim the key; or the answer on record: a replay, unless this very batch wrote it.

        Raises IdempotencyKeyReused, and IdempotencyInProgress if another transaction holds the claim for too long.
        """
        given = (self._identity.workspace_id, fingerprint, self._batch_uid)
        if self._execute(_CLAIM, (*self._primary_key, *given, timedelta(seconds=ttl_seconds))):
            return None
        # Another transaction may have taken the record away since; then the batch is simply made again.
        for found, uid, body in self._execute(_FIND, self._primary_key):
            require_same_content(found, fingerprint)
            return Receipt(200, body, is_replay=uid != self._batch_uid)
        return self.claim(fingerprint, ttl_seconds)

    def is_ours(self) -> bool:
        """Whether this very batch has committed its record."""
        found = self._execute(_FIND, self._primary_key)
        return any(uid == self._batch_uid for _, uid, _ in found)

    def answer(self, body: str) -> None:
        """Record what the batch is answered."""
        self._execute(_ANSWER, (body, *self._primary_key))

    def count_replay(self, payload_bytes: Sequence[int], address: str) -> None:
        """Leave the usage of a replay: of each event that was accepted the first time, its payload's size."""
        if payload_bytes:
            project_id, source_id = self._source
            whose = (project_id, self._batch_uid, self._identity.workspace_id, source_id, self._identity.row_id)
            addresses = [address] if address else None
            self._execute(_COUNT, (*whose, len(payload_bytes), sum(payload_bytes), addresses))
