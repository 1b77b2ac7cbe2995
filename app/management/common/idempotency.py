"""The Idempotency-Key of a management request: a POST that is sent again changes nothing more.

The key is claimed before the mutation and in its transaction, by an insert into a unique index: two requests at once
wait for each other, a crash leaves no claim, and a refusal rolls its claim back. The claim does not hold the response
but names what was created: a retry shows that object as it is now, and a secret, which is shown once, not again.
"""

from datetime import timedelta
from typing import Any, Final

from psycopg.errors import LockNotAvailable
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.errors import IdempotencyInProgress, IdempotencyKeyReused
from app.management.common.operators import IdempotentRequest, Operator
from app.models import ManagementRequest

# An expired claim that is not purged yet is overwritten.
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


class AlreadyDoneError(Exception):
    """Leaves the transaction: this very request has been carried out before."""

    def __init__(self, object_id: str | None, credential_id: str | None) -> None:
        super().__init__(object_id)
        self.object_id = object_id
        """What it created; None if it created nothing."""
        self.credential_id = credential_id
        """The key or token whose plain text was in the response."""


def claim(session: Session, operator: Operator, request: IdempotentRequest) -> None:
    """Claim the request's key until the commit.

    Raises AlreadyDoneError, IdempotencyKeyReused or IdempotencyInProgress if another request has it.
    """
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


def refuse_repeated(session: Session, operator: Operator) -> None:
    """As claim(), for a request that is committed already. Claims nothing and waits for nothing."""
    if operator.request is None:
        return
    query = select(ManagementRequest).where(*_is_claim(operator, operator.request))
    done = session.scalars(query.where(ManagementRequest.expires_at > func.clock_timestamp())).one_or_none()
    if done is not None:
        raise _repeated(done, operator.request)


def note_created(session: Session, operator: Operator, public_id: str, *, is_credential: bool) -> None:
    """Write on the claim what the request has created: the first object, which the others belong to."""
    if operator.request is None:
        return
    values: dict[str, Any] = {"object_id": func.coalesce(ManagementRequest.object_id, public_id)}
    if is_credential:
        values["credential_id"] = public_id
    session.execute(update(ManagementRequest).where(*_is_claim(operator, operator.request)).values(values))


def _is_claim(operator: Operator, request: IdempotentRequest) -> tuple[Any, ...]:
    return (
        ManagementRequest.workspace_id == operator.workspace_id,
        ManagementRequest.actor == operator.actor,
        ManagementRequest.idempotency_key == request.key,
    )
