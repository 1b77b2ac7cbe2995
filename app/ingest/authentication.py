"""Whose source key is it? Proves a key once per process; whether it still lives is asked in the writing statement.

Cost (bench/prices.py): a known key 1.5 µs, a keyed digest and a look-up; one that another process has proven a round
trip to Redis at most; an unknown one a query and an argon2 run, about 20 ms, once.
"""

import time

import structlog
from sqlalchemy import text

from app.credentials.verification import Credentials, Identity, Known
from app.database.engine import Database, TenantScope
from app.errors import InvalidSourceKey
from app.telemetry import metrics

# By the unique index on public_id. Whatever can change is left out: the answer is remembered for the process's life.
_LOOK_UP = text("SELECT id, workspace_id, secret_hash FROM source_keys WHERE public_id = :public_id")
_REHASH = text("UPDATE source_keys SET secret_hash = :secret_hash WHERE id = :id")


def authenticate(header: str | None, credentials: Credentials, database: Database, deadline: float) -> Identity:
    """Whose key the X-API-Key header holds; waits for the database until `deadline` (time.monotonic() seconds).

    Raises InvalidSourceKey, alike for whatever is wrong with it, and StorageUnavailable.
    """
    if not header:
        raise InvalidSourceKey
    known = credentials.recognise(header, "sk")
    if known is not None:
        metrics.KEY_LOOKUPS.labels("memory").inc()
        structlog.contextvars.bind_contextvars(key=known.public_id)
        return known
    credential = credentials.parse(header, "sk")
    if credential is None:
        if header.startswith("lrb_mt_"):
            raise InvalidSourceKey("This is a management token; ingest takes a source key (lrb_sk_…) in X-API-Key.")
        raise InvalidSourceKey
    structlog.contextvars.bind_contextvars(key=f"key_{credential.key_id}")

    def look_up(key_id: str) -> Known | None:
        with database.transaction(TenantScope.ALL, deadline_seconds=deadline - time.monotonic()) as session:
            row = session.execute(_LOOK_UP, {"public_id": f"key_{key_id}"}).one_or_none()
        return Known(row.secret_hash, Identity(f"key_{key_id}", row.id, row.workspace_id)) if row else None

    proof = credentials.identify(credential, look_up)
    if proof is None:
        raise InvalidSourceKey
    if proof.new_hash:
        workspace_id = proof.identity.workspace_id
        with database.transaction(workspace_id, deadline_seconds=deadline - time.monotonic()) as session:
            session.execute(_REHASH, {"secret_hash": proof.new_hash, "id": proof.identity.row_id})
    return proof.identity
