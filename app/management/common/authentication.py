"""Whose management token is it? Proven once per process; whether it still lives is read at every request."""

from collections.abc import Callable
from typing import Any

import structlog
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from app.credentials.verification import Credential, Credentials, Identity, Known, Proof
from app.database.engine import Database, TenantScope
from app.errors import InvalidManagementToken
from app.management.common.operators import Operator, Role

# By the unique index on public_id. Only here does a query begin outside a workspace: it finds out which one.
_LOOK_UP = text("SELECT id, workspace_id, secret_hash FROM management_tokens WHERE public_id = :public_id")
# What can change is read at every request. A token whose expiry is marked (app/maintenance/key_life.py) stays expired
# if PostgreSQL's clock is set back, as source keys do (migrations/versions/0012_database_clock.py).
_READ = text("""
    SELECT role, project_ids, expires_at, coalesce(last_used_at < now() - interval '1 minute', true) AS is_use_news
    FROM management_tokens
    WHERE id = :id AND public_id = :public_id AND revoked_at IS NULL
        AND (expires_at IS NULL OR expires_at > now() AND expired_at IS DISTINCT FROM expires_at)
""")
# SKIP LOCKED: of many requests at once one writes, and nobody waits behind whoever is revoking the token.
_NOTE_USE = text("""
    UPDATE management_tokens SET last_used_at = now()
    WHERE id = (SELECT id FROM management_tokens WHERE id = :id FOR NO KEY UPDATE SKIP LOCKED)
""")
_REHASH = text("UPDATE management_tokens SET secret_hash = :secret_hash WHERE id = :id")
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

    `admit` is asked as soon as it is known whose token it is, and may refuse before the database is asked for more, or
    say by which share of it.
    Raises InvalidManagementToken, alike for whatever is wrong with it, and StorageUnavailable.
    """
    scheme, _, sent = (header or "").partition(" ")
    if scheme.lower() != "bearer":
        raise InvalidManagementToken
    credential = credentials.parse(sent.strip(), "mt")
    if credential is None:
        raise InvalidManagementToken(_SOURCE_KEY if sent.strip().startswith("lrb_sk_") else None)
    structlog.contextvars.bind_contextvars(token=_public_id_of(credential))
    proof = _prove(credential, credentials, database)
    if proof is None:
        raise InvalidManagementToken
    database = admit(proof.identity) or database
    with database.transaction(proof.identity.workspace_id, deadline_seconds=_DEADLINE_SECONDS) as session:
        row = _read(session, proof)
    if row is None:
        raise InvalidManagementToken
    return Operator(
        token_public_id=proof.identity.public_id,
        workspace_id=proof.identity.workspace_id,
        role=Role(row.role),
        project_rows=None if row.project_ids is None else frozenset(row.project_ids),
        expires_at=row.expires_at,
        request_id=request_id,
        address=address,
    )


def _prove(credential: Credential, credentials: Credentials, database: Database) -> Proof | None:
    """Whose token it is; None if it was never issued."""

    def look_up(_key_id: str) -> Known | None:
        with database.transaction(TenantScope.ALL, deadline_seconds=_DEADLINE_SECONDS) as session:
            row = session.execute(_LOOK_UP, {"public_id": _public_id_of(credential)}).one_or_none()
        return Known(row.secret_hash, Identity(_public_id_of(credential), row.id, row.workspace_id)) if row else None

    return credentials.identify(credential, look_up)


def _read(session: Session, proof: Proof) -> Row[Any] | None:
    """What the token may do; None if it has expired or been revoked."""
    if proof.new_hash:
        session.execute(_REHASH, {"secret_hash": proof.new_hash, "id": proof.identity.row_id})
    named = {"id": proof.identity.row_id, "public_id": proof.identity.public_id}
    row = session.execute(_READ, named).one_or_none()
    if row is not None and row.is_use_news:
        session.execute(_NOTE_USE, {"id": proof.identity.row_id})
    return row


def _public_id_of(credential: Credential) -> str:
    """The public id of the token that `credential` is."""
    return f"tok_{credential.key_id}"
