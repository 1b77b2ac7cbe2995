"""Whose management token is it? Verified once per process; whether it is still valid is read at every request."""

from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from app.credentials.verification import Credentials, Identity, StoredCredential, Verification
from app.database.engine import Database, TenantScope
from app.errors import InvalidManagementToken
from app.management.common.operators import Operator, Role

# By the unique index on public_id. Only here does a query begin outside a workspace: it finds out which one.
_LOOK_UP = text("""
    SELECT id, workspace_id, secret_hash, secret_digest FROM management_tokens WHERE public_id = :public_id
""")
# What can change is read at every request. A token whose expiry is marked (app/maintenance/key_life.py) stays expired
# if PostgreSQL's clock is set back, as source keys do (app/database/sql/policies.sql).
_READ = text("""
    SELECT role, project_ids, expires_at, coalesce(last_used_at < now() - interval '1 minute', true) AS is_use_news
    FROM management_tokens
    WHERE id = :id AND public_id = :public_id AND revoked_at IS NULL
        AND (expires_at IS NULL OR expires_at > now() AND expired_at IS DISTINCT FROM expires_at)
""")
# SKIP LOCKED: of many requests at once one writes, and none waits for the transaction that revokes the token.
_NOTE_USE = text("""
    UPDATE management_tokens SET last_used_at = now()
    WHERE id = (SELECT id FROM management_tokens WHERE id = :id FOR NO KEY UPDATE SKIP LOCKED)
""")
_RENEW = text("""
    UPDATE management_tokens SET secret_digest = :digest, secret_hash = coalesce(:hash, secret_hash)
    WHERE id = (SELECT id FROM management_tokens WHERE id = :id FOR NO KEY UPDATE SKIP LOCKED)
""")
# The guard comes before everything else: while the database is frozen, no thread waits longer than this.
_DEADLINE_SECONDS = 1.8
_SOURCE_KEY = "This is a source key; the management API takes a management token (lrb_mt_…) in Authorization: Bearer."


def authenticate(
    header: str | None,
    credentials: Credentials,
    database: Database,
    *,
    admit: Callable[[Identity], Database | None] = lambda _: None,
    request_id: str | None = None,
    address: str | None = None,
) -> Operator:
    """Who holds the token in the Authorization header, and what it may do.

    `admit` is called as soon as the token's workspace is known. It may refuse before the next query, or return the
    share of the database that the rest of the request uses.
    Raises InvalidManagementToken, alike for whatever is wrong with it, and StorageUnavailable.
    """
    scheme, _, sent = (header or "").partition(" ")
    if scheme.lower() != "bearer":
        raise InvalidManagementToken
    credential = credentials.parse(sent.strip(), "mt")
    if credential is None:
        raise InvalidManagementToken(_SOURCE_KEY if sent.strip().startswith("lrb_sk_") else None)
    structlog.contextvars.bind_contextvars(token=f"tok_{credential.key_id}")
    verification = credentials.verify(credential, partial(_look_up, database))
    if verification is None:
        raise InvalidManagementToken
    identity = verification.identity
    database = admit(identity) or database
    if verification.new_digest is not None:
        _renew(database, verification)
    with database.transaction(identity.workspace_id, deadline_seconds=_DEADLINE_SECONDS) as session:
        row = _read(session, identity)
    if row is None:
        raise InvalidManagementToken
    return Operator(
        token_public_id=identity.public_id,
        workspace_id=identity.workspace_id,
        role=Role(row.role),
        project_rows=None if row.project_ids is None else frozenset(row.project_ids),
        expires_at=row.expires_at,
        request_id=request_id,
        address=address,
    )


def _look_up(database: Database, key_id: str) -> StoredCredential | None:
    public_id = f"tok_{key_id}"
    with database.transaction(TenantScope.ALL, deadline_seconds=_DEADLINE_SECONDS) as session:
        row = session.execute(_LOOK_UP, {"public_id": public_id}).one_or_none()
    if row is None:
        return None
    return StoredCredential(Identity(public_id, row.id, row.workspace_id), row.secret_hash, row.secret_digest)


def _renew(database: Database, renewed: Verification) -> None:
    named = {"id": renewed.identity.row_id, "digest": renewed.new_digest, "hash": renewed.new_hash}
    with database.transaction(renewed.identity.workspace_id, deadline_seconds=_DEADLINE_SECONDS) as session:
        session.execute(_RENEW, named)


def _read(session: Session, identity: Identity) -> Row[Any] | None:
    """What the token may do; None if it has expired or been revoked."""
    row = session.execute(_READ, {"id": identity.row_id, "public_id": identity.public_id}).one_or_none()
    if row is not None and row.is_use_news:
        session.execute(_NOTE_USE, {"id": identity.row_id})
    return row
