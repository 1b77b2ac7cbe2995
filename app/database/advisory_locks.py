"""Advisory locks of the product. Transaction locks, which a crash releases, except for try_lock().

**The barrier of a workspace.** After a revocation has answered, nothing more is stored (docs/decisions/0003). Reading
`revoked_at` in the statement that writes is not enough: a statement that began before the revocation committed still
sees the key alive, and may commit after the revocation has answered. So ingest holds the workspace's lock shared, from
before that statement until its commit, and a change that revokes a right takes it exclusively before it commits: it
waits for the statements that may not have seen it, and later ones see it. It is asked for on the workspace's row, so
that on a cluster of servers it is taken where that row lies.

**Between operators' changes.** PostgreSQL queues advisory locks in the order of the requests, also a shared one behind
a waiting exclusive one. It does not queue row locks so: a steady stream of share lockers lets no update of their row
through. So what many changes share, and a few need exclusively, is an advisory lock.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import psycopg
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.database.engine import Database
from app.errors import OutcomeUnknown, StorageUnavailable

# Keep these numbers apart from each other and from all other advisory locks of the database: 0x6C74 and 0x6C75 are
# those of feeds (sql/feed.sql).
_INGEST = 0x6C72_0000_0000_0000
_PARENTS = 0x6C73_0000_0000_0000
_RESIDENCE = 0x6C76_0000_0000_0000
_TRY: Final = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
_RELEASE: Final = "SELECT pg_advisory_unlock_all()"
_TRY_SECONDS: Final = 5.0
_EXCLUDE = text(
    "SELECT set_config('lock_timeout', '8s', true), pg_advisory_xact_lock(:key) FROM workspaces WHERE id = :workspace"
)
_SHARE_PARENTS = text("SELECT pg_advisory_xact_lock_shared(:key)")
_EXCLUDE_PARENTS = text("SELECT pg_advisory_xact_lock(:key)")
_SHARE_RESIDENCE = text("SELECT pg_advisory_xact_lock_shared(:key)")
_SHARE_TOKEN = text("SELECT pg_advisory_xact_lock_shared(hashtextextended('token ' || :token, 0))")
_EXCLUDE_TOKEN = text("SELECT pg_advisory_xact_lock(hashtextextended('token ' || :token, 0))")


def workspace_lock(workspace_id: int) -> int:
    """The number of a workspace's lock; store_events takes them shared, sorted by number."""
    return _INGEST | workspace_id


def exclude_workspace(session: Session, workspace_id: int) -> None:
    """Wait until no ingest of this workspace is under way; later ones wait for this transaction.

    Ingest transactions last milliseconds, and PostgreSQL ends those that hang (idle_in_transaction_session_timeout), so
    eight seconds are enough. Take it last: whatever is waited for while it is held, the workspace's events wait for.
    """
    # one(): without the row there would be no lock, in silence.
    session.execute(_EXCLUDE, {"key": workspace_lock(workspace_id), "workspace": workspace_id}).one()


def share_parents(session: Session, workspace_id: int) -> None:
    """No project, environment or source of this workspace is changed or archived until we commit."""
    session.execute(_SHARE_PARENTS, {"key": _PARENTS | workspace_id})


def exclude_parents(session: Session, workspace_id: int) -> None:
    """Wait until no child is being made in this workspace; later ones wait for this transaction."""
    session.execute(_EXCLUDE_PARENTS, {"key": _PARENTS | workspace_id})


def residence_lock(workspace_id: int) -> int:
    """The number of the lock that the last part of a workspace's move takes exclusively (app/cells/moving/)."""
    return _RESIDENCE | workspace_id


def share_residence(session: Session, workspace_id: int) -> None:
    """The last part of the workspace's move does not begin until we commit. Take it last: mutations wait behind it."""
    session.execute(_SHARE_RESIDENCE, {"key": residence_lock(workspace_id)})


def share_token(session: Session, token: str) -> None:
    """The management token with this public id is not revoked until we commit."""
    session.execute(_SHARE_TOKEN, {"token": token})


def exclude_token(session: Session, token: str) -> None:
    """Wait until no change by this token is being committed; later ones wait for this transaction."""
    session.execute(_EXCLUDE_TOKEN, {"token": token})


@contextmanager
def try_lock(database: Database, name: str) -> Iterator[bool]:
    """Take the lock called `name` for the block, on a session of its own; yields whether it was free.

    PostgreSQL releases it when it notices that the connection is gone: at once for a killed process, within a minute
    for a vanished machine (engine.py). A connection that is lost before the block ends releases it too, and the block
    does not notice: what runs in it must be safe to run twice. Raises StorageUnavailable.
    """
    connection = database.dedicated_connection()
    try:
        is_ours = connection.run(_TRY, [name], time.monotonic() + _TRY_SECONDS)[0][0]
        try:
            yield is_ours
        finally:
            # Explicitly: a session that ends releases its locks a moment later, and the next run would find it taken.
            with suppress(StorageUnavailable, OutcomeUnknown, psycopg.Error):
                connection.run(_RELEASE, [], time.monotonic() + _TRY_SECONDS)
    finally:
        connection.close()
