"""The transaction of every change, and the Idempotency-Key that keeps a retried POST from changing twice.

The key is claimed before the change and in its transaction, by an insert into a unique key: two at once wait for each
other, a crash leaves no claim, and a refusal takes its claim back with everything else. What is remembered is not the
answer but what was made: a retry is shown that as it is now, and a secret that was shown once is not shown again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from psycopg.errors import LockNotAvailable
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.database.engine import Database
from app.errors import IdempotencyInProgress, IdempotencyKeyReused
from app.management.common.operators import IdempotentRequest, Operator
from app.management.common.token_validity import hold_standing
from app.models import ManagementRequest

# An expired claim that nobody has purged yet is overwritten.
_CLAIM: Final = text("""
    INSERT INTO management_requests AS request (workspace_id, actor, idempotency_key, fingerprint, created_at,
        expires_at)
    VALUES (:workspace_id, :actor, :idempotency_key, :fingerprint, clock_timestamp(), clock_timestamp() + :ttl)
    ON CONFLICT (workspace_id, actor, idempotency_key) DO UPDATE SET
        fingerprint = excluded.fingerprint, object_id = NULL, credential_id = NULL,
        created_at = excluded.created_at, expires_at = excluded.expires_at
        WHERE request.expires_at <= excluded.created_at
    RETURNING 1
""")
# Ingest's patience is for producers, who come again by themselves. Of many who change one row, or ask for one name, the
# last waits for all before it and shall be told what became of it; and who hangs shall not keep the pool for long.
_PATIENCE: Final = text("SELECT set_config('lock_timeout', '3s', true)")


class AlreadyDoneError(Exception):
    """Leaves the transaction: this very request has been carried out before."""

    def __init__(self, object_id: str | None, credential_id: str | None) -> None:
        super().__init__(object_id)
        self.object_id = object_id
        """What it created; None if it created nothing."""
        self.credential_id = credential_id
        """The key or token whose plain text was in the answer."""


@contextmanager
def changing(database: Database, operator: Operator) -> Iterator[Session]:
    """The transaction of one change.

    Raises InvalidManagementToken if the caller's token was revoked before the commit; AlreadyDoneError for a request
    that was carried out before, IdempotencyKeyReused if its key stands for another one, and IdempotencyInProgress while
    it is being carried out.
    """
    with database.transaction(operator.workspace_id) as session:
        if operator.request is not None:
            _claim(session, operator, operator.request)
        session.execute(_PATIENCE)
        yield session
        session.flush()  # what can wait, or be refused, comes before the lock that a revocation waits for
        hold_standing(session, operator)


def refuse_repeated(session: Session, operator: Operator) -> None:
    """As changing(), for what is committed already. Claims nothing and waits for nothing."""
    if operator.request is not None:
        claim = select(ManagementRequest).where(*_is_claim(operator, operator.request))
        done = session.scalars(claim.where(ManagementRequest.expires_at > func.clock_timestamp())).one_or_none()
        if done is not None:
            raise _repeated(done, operator.request)


def note_created(session: Session, operator: Operator, public_id: str, *, is_credential: bool) -> None:
    """Write on the claim what the request has made; the first object counts, for others came with it."""
    if operator.request is None:
        return
    values: dict[str, Any] = {"object_id": func.coalesce(ManagementRequest.object_id, public_id)}
    if is_credential:
        values["credential_id"] = public_id
    session.execute(update(ManagementRequest).where(*_is_claim(operator, operator.request)).values(values))


def _claim(session: Session, operator: Operator, request: IdempotentRequest) -> None:
    try:
        claimed = session.execute(
            _CLAIM,
            {
                "workspace_id": operator.workspace_id,
                "actor": operator.actor,
                "idempotency_key": request.key,
                "fingerprint": request.fingerprint,
                "ttl": timedelta(seconds=request.ttl_seconds),
            },
        ).all()
    except OperationalError as error:
        if isinstance(error.orig, LockNotAvailable):
            raise IdempotencyInProgress from error
        raise
    if claimed:
        return
    done = session.scalars(select(ManagementRequest).where(*_is_claim(operator, request))).one()
    raise _repeated(done, request)


def _repeated(done: ManagementRequest, request: IdempotentRequest) -> Exception:
    if done.fingerprint != request.fingerprint:
        return IdempotencyKeyReused()
    return AlreadyDoneError(done.object_id, done.credential_id)


def _is_claim(operator: Operator, request: IdempotentRequest) -> tuple[Any, ...]:
    return (
        ManagementRequest.workspace_id == operator.workspace_id,
        ManagementRequest.actor == operator.actor,
        ManagementRequest.idempotency_key == request.key,
    )
