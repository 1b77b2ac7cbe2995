"""Verifies source keys, once per process; whether a key is still valid is read in the statement that writes.

Cost (bench/prices.py): a cached key 1.5 µs, a keyed digest and a look-up; another one a query; one whose row has no
digest of it argon2 as well, about 20 ms. With its first key, a process begins to cache those that were used last.
"""

from functools import partial
from typing import Final

import structlog

from app.credentials.table import CredentialTable
from app.credentials.verification import Credentials, Identity
from app.database.engine import Database
from app.errors import InvalidSourceKey
from app.telemetry import metrics

_KEYS: Final = CredentialTable("source_keys")


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
    structlog.contextvars.bind_contextvars(key=credential.public_id)
    # Not before: a forged key starts nothing.
    credentials.preload(partial(_KEYS.used_last, database, credentials.hash_form))
    verification = _KEYS.verify(credential, credentials, database, deadline)
    if verification is None:
        raise InvalidSourceKey
    _KEYS.renew(verification, database, deadline)
    return verification.identity
