"""Stores the events of a batch within one transaction: all in one statement, or apart if PostgreSQL refuses one."""

from collections.abc import Sequence
from typing import Any

from psycopg.errors import DataError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.config import Settings
from app.credentials.verification import Identity
from app.errors import IdempotencyInProgress, Refusal
from app.ingest.envelope import Attempt
from app.ingest.retries import Failure, failure_of, unstorable
from app.ingest.storage import Execute, Outcome, Verdict, store

Stored = tuple[Attempt, Verdict] | Refusal
"""What became of an attempt, or what PostgreSQL had against it."""


class AgainError(Exception):
    """Leaves the transaction: what stood in the way has gone, or two transactions waited for each other."""


class PoisonedError(Exception):
    """Leaves the transaction: PostgreSQL refuses a value that the readers let through."""

    def __init__(self, error: DataError) -> None:
        super().__init__(str(error))
        self.refusal = unstorable(error)


def executing(session: Session) -> Execute:
    """How storage.py speaks within `session`.

    Raises IdempotencyInProgress for what another transaction holds too long, AgainError and PoisonedError.
    """
    connection = session.connection()

    def execute(statement: str, parameters: Sequence[Any]) -> Sequence[Any]:
        try:
            result = connection.exec_driver_sql(statement, tuple(parameters))
            return result.all() if result.returns_rows else ()
        except DBAPIError as error:
            match failure_of(error.orig):
                case Failure.LOCKED:
                    raise IdempotencyInProgress from error
                case Failure.ABORTED:
                    raise AgainError from error
                case Failure.UNSTORABLE if isinstance(error.orig, DataError):
                    raise PoisonedError(error.orig) from error
                case _:
                    raise

    return execute


def store_all(execute: Execute, identity: Identity, attempts: Sequence[Attempt], settings: Settings) -> list[Stored]:
    """Store a batch in one statement. Raises AgainError and PoisonedError."""
    if not attempts:
        return []
    verdicts = store(
        execute,
        [(identity, attempt) for attempt in attempts],
        idempotency_ttl_seconds=settings.idempotency_ttl_seconds,
        lock_wait_seconds=settings.idempotency_wait_seconds,
    )
    if any(verdict.outcome is Outcome.RACED for verdict in verdicts):
        raise AgainError
    return list(zip(attempts, verdicts, strict=True))


def store_apart(execute: Execute, identity: Identity, attempts: Sequence[Attempt], settings: Settings) -> list[Stored]:
    """As store_all, but what PostgreSQL refuses is refused alone.

    By halves and in order: one poisoned event in a thousand takes twenty statements, and of one event_id the first is
    stored as ever. Two such batches may wait for each other; then one of them is made again.
    """
    execute("SAVEPOINT apart", ())
    try:
        stored = store_all(execute, identity, attempts, settings)
    except PoisonedError as error:
        execute("ROLLBACK TO SAVEPOINT apart", ())
        if len(attempts) == 1:
            return [error.refusal]
        half = len(attempts) // 2
        return store_apart(execute, identity, attempts[:half], settings) + store_apart(
            execute, identity, attempts[half:], settings
        )
    execute("RELEASE SAVEPOINT apart", ())
    return stored
