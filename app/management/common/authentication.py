"""Whose management token is it? Verified once per process; whether it is still valid is read at every request."""

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, Final, NamedTuple

import structlog
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from app.cells.directory import wrong_cell
from app.credentials.table import CredentialTable, seconds_until
from app.credentials.verification import Credentials, Identity
from app.database.engine import Database
from app.errors import InvalidManagementToken
from app.management.common.operators import Operator, Role

_TOKENS: Final = CredentialTable("management_tokens")
# What can change is read at every request. A token whose expiry is marked (app/maintenance/key_life.py) stays expired
# if PostgreSQL's clock is set back, as source keys do (app/database/sql/policies.sql). What has been changed of a token
# since its workspace left is known in the cell that it lives in.
_READ = text("""
    SELECT token.id, token.public_id, role, project_ids, expires_at, home,
        coalesce(last_used_at < now() - interval '1 minute', true) AS is_use_news
    FROM management_tokens AS token JOIN workspaces AS workspace ON workspace.id = workspace_id
    WHERE token.id = ANY(CAST(:ids AS bigint[])) AND token.public_id = ANY(CAST(:public_ids AS text[]))
        AND (home IS NOT NULL OR revoked_at IS NULL
            AND (expires_at IS NULL OR expires_at > now() AND expired_at IS DISTINCT FROM expires_at))
""")
# SKIP LOCKED: of many requests at once one writes, and none waits for the transaction that revokes the token.
_NOTE_USES = text("""
    UPDATE management_tokens SET last_used_at = now()
    WHERE id IN (SELECT id FROM management_tokens WHERE id = ANY(CAST(:ids AS bigint[])) FOR NO KEY UPDATE SKIP LOCKED)
""")
# The guard comes before everything else: while the database is frozen, no thread waits longer than this for all its
# queries together.
_DEADLINE_SECONDS = 1.8
_SOURCE_KEY = "This is a source key; the management API takes a management token (lrb_mt_…) in Authorization: Bearer."


class Caller(NamedTuple):
    """The holder of a valid token."""

    operator: Operator
    is_use_news: bool
    """Whether no use of the token was noted in the last minute: note_uses() is due."""
    home: str | None = None
    """The cell that its workspace lives in, if that is another one."""


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
    Raises InvalidManagementToken, alike for whatever is wrong with it, WrongCell for a workspace that has moved, and
    StorageUnavailable.
    """
    token = token_in(header)
    if token is None:
        raise InvalidManagementToken
    deadline = time.monotonic() + _DEADLINE_SECONDS
    credential = credentials.parse(token, "mt")
    if credential is None:
        raise InvalidManagementToken(_SOURCE_KEY if token.startswith("lrb_sk_") else None)
    structlog.contextvars.bind_contextvars(token=credential.public_id)
    verification = _TOKENS.verify(credential, credentials, database, deadline)
    if verification is None:
        raise InvalidManagementToken
    identity = verification.identity
    database = admit(identity) or database
    with database.transaction(identity.workspace_id, deadline_seconds=seconds_until(deadline)) as session:
        caller = read_callers(session, [identity]).get(identity)
        if caller is not None and caller.home is None and caller.is_use_news:
            note_uses(session, [identity])
    if caller is None:
        raise InvalidManagementToken
    if caller.home is not None:
        raise wrong_cell(caller.home)
    _TOKENS.renew(verification, database, deadline)
    return replace(caller.operator, request_id=request_id, address=address)


def token_in(header: str | None) -> str | None:
    """What an Authorization header holds behind Bearer."""
    scheme, _, token = (header or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def read_callers(session: Session, identities: Collection[Identity]) -> dict[Identity, Caller]:
    """What verified tokens of the session's workspace may do now; without those that are expired or revoked."""
    named = {"ids": [each.row_id for each in identities], "public_ids": [each.public_id for each in identities]}
    rows = {(row.id, row.public_id): row for row in session.execute(_READ, named)}
    found = ((each, rows.get((each.row_id, each.public_id))) for each in identities)
    return {identity: _caller(identity, row) for identity, row in found if row is not None}


def note_uses(session: Session, identities: Collection[Identity]) -> None:
    """Note that the tokens are used now."""
    session.execute(_NOTE_USES, {"ids": [each.row_id for each in identities]})


def _caller(identity: Identity, row: Row[Any]) -> Caller:
    operator = Operator(
        token_public_id=identity.public_id,
        workspace_id=identity.workspace_id,
        role=Role(row.role),
        project_rows=None if row.project_ids is None else frozenset(row.project_ids),
        expires_at=row.expires_at,
    )
    return Caller(operator, row.is_use_news, row.home)
