"""Whose management token is it? Proven once per process; whether it still lives is read at every request."""

import structlog
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.credentials import Credential, Credentials, Identity, Known, Proof
from app.database import Database
from app.errors import InvalidManagementToken
from app.management.operators import Operator

# By the unique index on public_id. Only here does a query begin outside a workspace: it finds out which one.
_LOOK_UP = text("SELECT id, workspace_id, secret_hash FROM management_tokens WHERE public_id = :public_id")
_IS_LIVE = text(
    "SELECT revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) FROM management_tokens"
    " WHERE id = :id AND public_id = :public_id"
)
_REHASH = text("UPDATE management_tokens SET secret_hash = :secret_hash WHERE id = :id")
# The guard comes before everything else: while the database is frozen, no thread waits longer than this.
_DEADLINE_SECONDS = 1.8
_SOURCE_KEY = "This is a source key; the management API takes a management token (lrb_mt_…) in Authorization: Bearer."


def authenticate(
    header: str | None, credentials: Credentials, database: Database, *, request_id: str | None
) -> Operator:
    """Who holds the token in the Authorization header.

    Raises InvalidManagementToken, alike for whatever is wrong with it, and StorageUnavailable.
    """
    scheme, _, sent = (header or "").partition(" ")
    if scheme.lower() != "bearer":
        raise InvalidManagementToken
    credential = credentials.parse(sent.strip(), "mt")
    if credential is None:
        raise InvalidManagementToken(_SOURCE_KEY if sent.strip().startswith("lrb_sk_") else None)
    structlog.contextvars.bind_contextvars(token=_public_id_of(credential))
    identity = _prove(credential, credentials, database)
    if identity is None:
        raise InvalidManagementToken
    return Operator(
        token_public_id=_public_id_of(credential), workspace_id=identity.workspace_id, request_id=request_id
    )


def _prove(credential: Credential, credentials: Credentials, database: Database) -> Identity | None:
    """Whose token it is; None if it was never issued, or has expired or been revoked."""

    def look_up(_key_id: str) -> Known | None:
        with database.transaction(deadline_seconds=_DEADLINE_SECONDS) as session:
            row = session.execute(_LOOK_UP, {"public_id": _public_id_of(credential)}).one_or_none()
        return Known(row.secret_hash, Identity(_public_id_of(credential), row.id, row.workspace_id)) if row else None

    proof = credentials.identify(credential, look_up)
    if proof is None:
        return None
    with database.transaction(deadline_seconds=_DEADLINE_SECONDS) as session:
        return proof.identity if _is_live(session, proof) else None


def _public_id_of(credential: Credential) -> str:
    """The public id of the token that `credential` is."""
    return f"tok_{credential.key_id}"


def _is_live(session: Session, proof: Proof) -> bool:
    if proof.new_hash:
        session.execute(_REHASH, {"secret_hash": proof.new_hash, "id": proof.identity.row_id})
    named = {"id": proof.identity.row_id, "public_id": proof.identity.public_id}
    return bool(session.execute(_IS_LIVE, named).scalar_one_or_none())
