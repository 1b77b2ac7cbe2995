"""Shall we take these? Decides on a batch: one transaction, one verdict per event in order, all or nothing on demand.

Steps: prove the key, read the body (body.py), then in one transaction claim the Idempotency-Key for the whole answer
(record.py) and store what can be stored (ingest/storage.py). The answer is recorded as it is sent.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.errors import DeadlockDetected, LockNotAvailable, SerializationFailure
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.credentials import Identity
from app.errors import IdempotencyInProgress, OutcomeUnknown, Refusal, StorageUnavailable
from app.identifiers import uuid7
from app.ingest.acceptance import REFUSALS, Counter, require_live
from app.ingest.authentication import authenticate
from app.ingest.batch import answer, record
from app.ingest.batch.body import Batch, read_batch
from app.ingest.batch.record import BatchRecord
from app.ingest.envelope import Attempt, Envelope, Receipt, read_idempotency_key
from app.ingest.storage import Execute, Outcome, Verdict, store
from app.rate_limits import Allowance


@dataclass(frozen=True, slots=True)
class BatchSubmission:
    """A batch as it came over the counter, nothing of it believed yet."""

    key_header: str | None
    idempotency_header: str | None
    is_atomic: bool
    media_type: Callable[[], str]
    """Says which form the body has. May raise UnsupportedMediaType."""
    read_body: Callable[[], bytes]
    """Reads the body, bounded; called only for a proven key. May raise PayloadTooLarge, UnsupportedMediaType."""
    received_at: datetime


@dataclass(frozen=True, slots=True)
class _BatchAttempt:
    """A batch that could be read, and our own marks on it."""

    batch: Batch
    is_atomic: bool
    idempotency_key: str | None
    received_at: datetime
    batch_uid: UUID
    attempts: tuple[Attempt, ...]
    """Of the events that could be read, in order. Repeating them with the same uids is safe."""


def accept_batch(submission: BatchSubmission, counter: Counter) -> tuple[Receipt, Allowance]:
    """Take a batch: the receipt holds a verdict per event, once those that are stored are committed.

    Raises a Refusal: nothing was stored.
    """
    identity = authenticate(submission.key_header, counter.credentials, counter.database, _deadline(counter))
    try:
        attempt = _read(submission, identity, counter)
    except Refusal:
        require_live(identity, submission.received_at, counter)
        raise
    allowance = counter.rate_limiter.admit(identity, len(attempt.batch.events))
    with counter.batch_places.taken():
        return _store_once(attempt, identity, counter, _deadline(counter)), allowance


def _deadline(counter: Counter) -> float:
    return time.monotonic() + counter.settings.storage_deadline_seconds


def _read(submission: BatchSubmission, identity: Identity, counter: Counter) -> _BatchAttempt:
    idempotency_key = read_idempotency_key(submission.idempotency_header)
    media_type = submission.media_type()
    body = counter.uploads.read(identity.row_id, submission.read_body)
    batch = read_batch(body, media_type, is_atomic=submission.is_atomic)
    return _BatchAttempt(
        batch=batch,
        is_atomic=submission.is_atomic,
        idempotency_key=idempotency_key,
        received_at=submission.received_at,
        batch_uid=uuid7(),
        attempts=tuple(
            Attempt(envelope=event, idempotency_key=None, received_at=submission.received_at, event_uid=uuid7())
            for event in batch.events
            if isinstance(event, Envelope)
        ),
    )


def _store_once(attempt: _BatchAttempt, identity: Identity, counter: Counter, deadline: float) -> Receipt:
    """Repeat the batch until it is decided or its time is up; safe, as with single events (committer.py)."""
    unknown: OutcomeUnknown | None = None
    while True:
        try:
            with counter.database.transaction(deadline_seconds=deadline - time.monotonic()) as session:
                return _store(attempt, identity, counter, _executing(session))
        except OutcomeUnknown as error:
            unknown = error
        except (StorageUnavailable, IdempotencyInProgress):
            # After an unanswered commit the claim that is in the way may be our own, still being committed.
            if unknown is None:
                raise
        except _AgainError:
            pass
        if time.monotonic() >= deadline:
            raise unknown or IdempotencyInProgress
        time.sleep(0.05 if unknown else 0.005)


class _AgainError(Exception):
    """Leaves the transaction: what stood in the way has gone, or two transactions waited for each other."""


def _executing(session: Session) -> Execute:
    """How storage.py speaks within `session`. Raises IdempotencyInProgress for a claim that is held too long."""
    connection = session.connection()

    def execute(statement: str, parameters: Sequence[Any]) -> Sequence[Any]:
        try:
            result = connection.exec_driver_sql(statement, tuple(parameters))
            return result.all() if result.returns_rows else ()
        except DBAPIError as error:
            if isinstance(error.orig, LockNotAvailable) and "tuple" in (error.orig.diag.context or ""):
                raise IdempotencyInProgress from error
            if isinstance(error.orig, SerializationFailure | DeadlockDetected):
                raise _AgainError from error
            raise

    return execute


def _store(attempt: _BatchAttempt, identity: Identity, counter: Counter, execute: Execute) -> Receipt:
    settings = counter.settings
    refusal = record.begin(execute, identity, attempt.received_at, settings.idempotency_wait_seconds)
    claim = None
    if attempt.idempotency_key is not None:
        claim = BatchRecord(execute, identity, attempt.idempotency_key, attempt.batch_uid)
        # Committed before by this very batch, in a commit that went unanswered: that counts, whatever changed since.
        if refusal is not None and (body := claim.find()) is not None:
            return Receipt(200, body)
    if refusal is not None:
        raise REFUSALS[refusal]
    if claim is not None:
        answered = claim.claim(attempt.batch.fingerprint, attempt.received_at, settings.idempotency_ttl_seconds)
        if answered is not None:
            return answered
    judged = _judged(attempt, _verdicts(attempt, identity, counter, execute))
    if attempt.is_atomic:
        answer.require_all(judged)
    body = answer.answer(judged)
    if claim is not None:
        claim.answer(body)
    return Receipt(200, body)


def _verdicts(attempt: _BatchAttempt, identity: Identity, counter: Counter, execute: Execute) -> list[Verdict]:
    if not attempt.attempts:
        return []
    verdicts = store(
        execute,
        [(identity, it) for it in attempt.attempts],
        idempotency_ttl_seconds=counter.settings.idempotency_ttl_seconds,
        lock_wait_seconds=counter.settings.idempotency_wait_seconds,
    )
    if any(verdict.outcome is Outcome.RACED for verdict in verdicts):
        raise _AgainError
    return verdicts


def _judged(attempt: _BatchAttempt, verdicts: list[Verdict]) -> list[answer.Judged]:
    stored = zip(attempt.attempts, verdicts, strict=True)
    return [event if isinstance(event, Refusal) else next(stored) for event in attempt.batch.events]
