"""Advisory locks of the product.

The barrier between ingest and whoever takes a right away: after a revocation has answered, nothing more is stored.
Reading `revoked_at` in the writing statement is not enough: a statement that began before the revocation committed
still sees the key alive, and may commit after the revocation has answered. So ingest holds a shared advisory lock on
its workspace from before that statement until its commit, and a change that takes a right away takes the same lock
exclusively before it commits: it waits for the statements that may not have seen it, and later ones do see it.
Both are transaction locks: a crash releases them. It is taken in the same exchange that writes (docs/decisions/0003).

Two more between the changes of operators. PostgreSQL queues advisory locks in the order in which they are asked for,
also a shared one behind an exclusive one that waits; row locks it does not: share lockers that come in a steady stream
let no update of their row through. So what many changes share, and a few need alone, is an advisory lock.

And the lock of a maintenance task, which lasts longer than a transaction: a lock of a session of its own.
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

# Keep these numbers apart from each other and from all other advisory locks of the database.
_INGEST = 0x6C72_0000_0000_0000
_PARENTS = 0x6C73_0000_0000_0000
_TRY: Final = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
_RELEASE: Final = "SELECT pg_advisory_unlock_all()"
_TRY_SECONDS: Final = 5.0
_EXCLUDE = text("SELECT set_config('lock_timeout', '8s', true), pg_advisory_xact_lock(:key)")
_SHARE_PARENTS = text("SELECT pg_advisory_xact_lock_shared(:key)")
_EXCLUDE_PARENTS = text("SELECT pg_advisory_xact_lock(:key)")
_SHARE_TOKEN = text("SELECT pg_advisory_xact_lock_shared(hashtextextended('token ' || :token, 0))")
_EXCLUDE_TOKEN = text("SELECT pg_advisory_xact_lock(hashtextextended('token ' || :token, 0))")


def workspace_lock(workspace_id: int) -> int:
    """The number of a workspace's lock; store_events_4 takes it shared, sorted by number."""
    return _INGEST | workspace_id


def exclude_workspace(session: Session, workspace_id: int) -> None:
    """Wait until no ingest of this workspace is under way; later ones wait for this transaction.

    Ingest transactions last milliseconds, and PostgreSQL ends those that hang (idle_in_transaction_session_timeout),
    so eight seconds are enough. Nothing may be waited for once it is held, or the workspace's events wait with it.
    """
    session.execute(_EXCLUDE, {"key": workspace_lock(workspace_id)})


def share_parents(session: Session, workspace_id: int) -> None:
    """Nothing of this workspace that could get a child is changed or archived until we commit."""
    session.execute(_SHARE_PARENTS, {"key": _PARENTS | workspace_id})


def exclude_parents(session: Session, workspace_id: int) -> None:
    """Wait until no child is being made in this workspace; later ones wait for this transaction."""
    session.execute(_EXCLUDE_PARENTS, {"key": _PARENTS | workspace_id})


def share_token(session: Session, token: str) -> None:
    """The management token with this public id is not revoked until we commit."""
    session.execute(_SHARE_TOKEN, {"token": token})


def exclude_token(session: Session, token: str) -> None:
    """Wait until no change by this token is being committed; later ones wait for this transaction."""
    session.execute(_EXCLUDE_TOKEN, {"token": token})


@contextmanager
def try_lock(database: Database, name: str) -> Iterator[bool]:
    """Whether the task lock called `name` was free; if so, it is held until the block ends.

    The lock belongs to a session. PostgreSQL releases it when the connection is lost: at once if the process is killed,
    within a minute if its machine is gone (engine.py). The block does not notice, so its work has to be safe to run
    twice. Raises StorageUnavailable.
    """
    connection = database.dedicated_connection()
    try:
        is_locked = connection.run(_TRY, [name], time.monotonic() + _TRY_SECONDS)[0][0]
        try:
            yield is_locked
        finally:
            # Closing releases the lock too, but only a moment later: the next run would find it taken.
            with suppress(StorageUnavailable, OutcomeUnknown, psycopg.Error):
                connection.run(_RELEASE, [], time.monotonic() + _TRY_SECONDS)
    finally:
        connection.close()
