"""Verifies source keys, once per process; whether a key is still valid is read in the statement that writes.

Cost (bench/prices.py): a cached key 1.5 µs, a keyed digest and a look-up; another one a query; one whose row has no
digest of it argon2 as well, about 20 ms. A process begins with the keys in its cache that were used last.
"""

import time
from contextlib import suppress
from functools import partial

import structlog
from sqlalchemy import text

from app.credentials.verification import Credentials, Identity, StoredCredential, Verification
from app.database.engine import Database, TenantScope
from app.errors import InvalidSourceKey, StorageUnavailable
from app.telemetry import metrics

# By the unique index on public_id. Whatever can change is left out: the answer is cached for the process's life.
_LOOK_UP = text("SELECT id, workspace_id, secret_hash, secret_digest FROM source_keys WHERE public_id = :public_id")
# A sequential scan, once per process: an index on last_used_at would have to follow each use. A hash of older
# parameters is left to _LOOK_UP, so that it is renewed.
_PRELOAD = text("""
    SELECT public_id, id, workspace_id, secret_digest FROM source_keys
    WHERE last_used_at > now() - interval '7 days' AND revoked_at IS NULL AND secret_digest IS NOT NULL
        AND starts_with(secret_hash, :hash_prefix)
    ORDER BY last_used_at DESC LIMIT :most
""")
# 10,000 keys take 20 ms of CPU, once, in the first request. Looked up one by one they take each process 10 s of CPU, in
# the minute after a deploy.
_PRELOADED_MAX = 20_000
_PRELOAD_SECONDS_MAX = 1.0
# SKIP LOCKED: a revocation may hold the row while it waits for the workspace. Without the renewal, the next process
# runs argon2 again.
_RENEW = text("""
    UPDATE source_keys SET secret_digest = :digest, secret_hash = coalesce(:hash, secret_hash)
    WHERE id = (SELECT id FROM source_keys WHERE id = :id FOR NO KEY UPDATE SKIP LOCKED)
""")


def authenticate(header: str | None, credentials: Credentials, database: Database, deadline: float) -> Identity:
    """Whose key the X-API-Key header holds; waits for the database until `deadline` (time.monotonic() seconds).

    Raises InvalidSourceKey, alike for whatever is wrong with it, and StorageUnavailable.
    """
    if not header:
        raise InvalidSourceKey
    cached = credentials.lookup_cached(header, "sk")
    if cached is not None:
        metrics.KEY_LOOKUPS.labels("memory").inc()
        structlog.contextvars.bind_contextvars(key=cached.public_id)
        return cached
    credential = credentials.parse(header, "sk")
    if credential is None:
        if header.startswith("lrb_mt_"):
            raise InvalidSourceKey("This is a management token; ingest takes a source key (lrb_sk_…) in X-API-Key.")
        raise InvalidSourceKey
    structlog.contextvars.bind_contextvars(key=f"key_{credential.key_id}")
    if credentials.begin_preload():
        _preload(database, credentials, deadline)
    verification = credentials.verify(credential, partial(_look_up, database, deadline))
    if verification is None:
        raise InvalidSourceKey
    if verification.new_digest is not None:
        _renew(database, deadline, verification)
    return verification.identity


def _preload(database: Database, credentials: Credentials, deadline: float) -> None:
    """Cache the keys that were used last. Without it, each is looked up at its first use."""
    named = {"most": _PRELOADED_MAX, "hash_prefix": credentials.hash_prefix}
    seconds = min(_PRELOAD_SECONDS_MAX, deadline - time.monotonic())
    with suppress(StorageUnavailable), database.transaction(TenantScope.ALL, deadline_seconds=seconds) as session:
        for public_id, row_id, workspace_id, digest in session.execute(_PRELOAD, named):
            credentials.preload(digest, Identity(public_id, row_id, workspace_id))


def _look_up(database: Database, deadline: float, key_id: str) -> StoredCredential | None:
    public_id = f"key_{key_id}"
    with database.transaction(TenantScope.ALL, deadline_seconds=deadline - time.monotonic()) as session:
        row = session.execute(_LOOK_UP, {"public_id": public_id}).one_or_none()
    if row is None:
        return None
    return StoredCredential(Identity(public_id, row.id, row.workspace_id), row.secret_hash, row.secret_digest)


def _renew(database: Database, deadline: float, renewed: Verification) -> None:
    identity = renewed.identity
    named = {"id": identity.row_id, "digest": renewed.new_digest, "hash": renewed.new_hash}
    with database.transaction(identity.workspace_id, deadline_seconds=deadline - time.monotonic()) as session:
        session.execute(_RENEW, named)
