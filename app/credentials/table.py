"""What the tables hold of keys and tokens: reads it, and renews it. Alone in this package to know PostgreSQL."""

import time
from functools import partial
from typing import Final

import structlog
from sqlalchemy import text

from app.credentials.verification import Credential, Credentials, HashForm, Identity, StoredCredential, Verification
from app.database.engine import Database, TenantScope
from app.errors import StorageUnavailable

_log = structlog.get_logger()

_USED_LAST_DAYS: Final = 7
# 10,000 keys take 20 ms of CPU. Looked up one by one they take each process 10 s of it, in the minute after a deploy.
_USED_LAST_MAX: Final = 20_000
# A thread of its own reads them, and no request waits. A second would be enough for a million rows in memory; a table
# that must be read from a slow disk may not keep a connection, and the disk, for longer than this.
_USED_LAST_SECONDS: Final = 5
# So many rows are sorted in 6 MB; with PostgreSQL's default of 4 MB, the whole result would be sorted on the disk.
_USED_LAST_MEMORY: Final = "16MB"
_BOUND_USED_LAST = text(
    f"SELECT set_config('statement_timeout', '{_USED_LAST_SECONDS}s', true),"
    f" set_config('work_mem', '{_USED_LAST_MEMORY}', true)"
)
# An update of one row by its id takes 2 ms and waits for no lock. A database that needs longer has other troubles, and
# the request has most of its time left for what it came for.
_RENEW_SECONDS_MAX: Final = 0.5


class CredentialTable:
    """The table of one kind of credential."""

    def __init__(self, name: str) -> None:
        # By the unique index on public_id. Whatever can change is left out: the answer is cached for the process's
        # life.
        self._look_up = text(
            f"SELECT id, workspace_id, secret_hash, secret_digest FROM {name} WHERE public_id = :public_id"
        )
        # SKIP LOCKED: a revocation may hold the row while it waits for the workspace.
        self._renew = text(f"""
            UPDATE {name} SET secret_digest = :digest, secret_hash = coalesce(:hash, secret_hash)
            WHERE id = (SELECT id FROM {name} WHERE id = :id FOR NO KEY UPDATE SKIP LOCKED)
        """)
        # A sequential scan, once per process: an index on last_used_at would have to follow each use. A hash of other
        # parameters is left to verify(), so that it is renewed.
        self._used_last = text(f"""
            SELECT secret_digest, public_id, id, workspace_id FROM {name}
            WHERE last_used_at > now() - interval '{_USED_LAST_DAYS} days'
                AND revoked_at IS NULL AND secret_digest IS NOT NULL
                AND starts_with(secret_hash, :prefix) AND length(secret_hash) = :characters
            ORDER BY last_used_at DESC LIMIT :most
        """)

    def verify(
        self, credential: Credential, credentials: Credentials, database: Database, deadline: float
    ) -> Verification | None:
        """As Credentials.verify(), with a row of this table; waits for PostgreSQL until `deadline`."""
        return credentials.verify(credential, partial(self._stored, database, deadline))

    def renew(self, renewed: Verification, database: Database, deadline: float) -> None:
        """Store what argon2 has renewed, if there is anything and PostgreSQL is there.

        The credential is proven already: without the renewal, the next process runs argon2 again, nothing worse.
        """
        if renewed.new_digest is None:
            return
        identity = renewed.identity
        named = {"id": identity.row_id, "digest": renewed.new_digest, "hash": renewed.new_hash}
        try:
            seconds = min(_RENEW_SECONDS_MAX, seconds_until(deadline))
            with database.transaction(identity.workspace_id, deadline_seconds=seconds) as session:
                session.execute(self._renew, named)
        except StorageUnavailable as error:
            _log.warning(
                "credential_not_renewed", credential=identity.public_id, cause=type(error.__cause__ or error).__name__
            )

    def used_last(self, database: Database, form: HashForm) -> list[tuple[bytes, Identity]]:
        """The digests of the credentials that were used last and whose hash is of this form, and whose they are."""
        named = {"prefix": form.prefix, "characters": form.characters, "most": _USED_LAST_MAX}
        with database.transaction(TenantScope.ALL, deadline_seconds=_USED_LAST_SECONDS + 1) as session:
            session.execute(_BOUND_USED_LAST)
            return [(digest, Identity(*whose)) for digest, *whose in session.execute(self._used_last, named)]

    def _stored(self, database: Database, deadline: float, public_id: str) -> StoredCredential | None:
        """The row of `public_id`; its workspace is not known before."""
        with database.transaction(TenantScope.ALL, deadline_seconds=seconds_until(deadline)) as session:
            row = session.execute(self._look_up, {"public_id": public_id}).one_or_none()
        if row is None:
            return None
        return StoredCredential(Identity(public_id, row.id, row.workspace_id), row.secret_hash, row.secret_digest)


def seconds_until(deadline: float) -> float:
    """What is left until `deadline` (time.monotonic() seconds). Raises StorageUnavailable if it has passed.

    A transaction that begins too late would only cost a connection, which is closed at its deadline.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise StorageUnavailable
    return left
