"""Shall we take it? Decides on one event, in the order in which a caller wants to hear what is wrong.

Steps and their price on a warm road (bench/prices.py): prove the key (10 µs), read the envelope (40 µs), then one
transaction: begin, barrier, statement, commit (four round trips and one flush, about a millisecond).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import text

from app import errors
from app.config import Settings
from app.credentials import Credentials, Identity
from app.database import Database
from app.errors import OutcomeUnknown, Refusal, StorageUnavailable
from app.exact_json import read_object
from app.identifiers import uuid7
from app.ingest.authentication import authenticate
from app.ingest.envelope import Attempt, read_envelope, read_idempotency_key
from app.ingest.storage import Outcome, Verdict, store

_REFUSALS: Final[dict[Outcome, type[Refusal]]] = {
    Outcome.INVALID_SOURCE_KEY: errors.InvalidSourceKey,
    Outcome.WORKSPACE_SUSPENDED: errors.WorkspaceSuspended,
    Outcome.SOURCE_DISABLED: errors.SourceDisabled,
    Outcome.SOURCE_MISMATCH: errors.SourceMismatch,
    Outcome.ENVIRONMENT_MISMATCH: errors.EnvironmentMismatch,
    Outcome.IDEMPOTENCY_KEY_REUSED: errors.IdempotencyKeyReused,
    Outcome.DUPLICATE_EVENT: errors.DuplicateEvent,
}
_IS_LIVE = text(
    "SELECT revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :at) FROM source_keys"
    " WHERE public_id = :public_id"
)


@dataclass(frozen=True, slots=True)
class Counter:
    """What the road needs of the house."""

    settings: Settings
    database: Database
    credentials: Credentials


@dataclass(frozen=True, slots=True)
class Submission:
    """A request as it came over the counter, nothing of it believed yet."""

    key_header: str | None
    idempotency_header: str | None
    read_body: Callable[[], bytes]
    """Reads the body, bounded; called only for a proven key. May raise PayloadTooLarge, UnsupportedMediaType."""
    received_at: datetime


def accept(submission: Submission, counter: Counter) -> Verdict:
    """Take one event: the verdict holds the receipt once the event is committed, by this request or an earlier one.

    1. Prove the key. 2. Read what was sent; if it is wrong, say so only to a key that lives. 3. Store it.
    Raises a Refusal: nothing was stored.
    """
    identity = authenticate(submission.key_header, counter.credentials, counter.database, _deadline(counter))
    try:
        attempt = _read(submission)
    except Refusal:
        _require_live(identity, submission.received_at, counter.database, _deadline(counter))
        raise
    # A new deadline: a producer with a slow line has not waited for PostgreSQL while it sent its body.
    verdict = _store_once(attempt, identity, counter, _deadline(counter))
    if verdict.outcome in _REFUSALS:
        raise _REFUSALS[verdict.outcome]
    return verdict


def _deadline(counter: Counter) -> float:
    return time.monotonic() + counter.settings.storage_deadline_seconds


def _read(submission: Submission) -> Attempt:
    idempotency_key = read_idempotency_key(submission.idempotency_header)
    envelope = read_envelope(read_object(submission.read_body()))
    return Attempt(
        envelope=envelope,
        idempotency_key=idempotency_key,
        received_at=submission.received_at,
        event_uid=uuid7(),
    )


def _require_live(identity: Identity, at: datetime, database: Database, deadline: float) -> None:
    """A revoked key learns that it is revoked, not what is wrong with its event."""
    with database.transaction(deadline_seconds=deadline - time.monotonic()) as session:
        if not session.execute(_IS_LIVE, {"public_id": identity.public_id, "at": at}).scalar_one_or_none():
            raise errors.InvalidSourceKey


def _store_once(attempt: Attempt, identity: Identity, counter: Counter, deadline: float) -> Verdict:
    """Repeat the attempt until it is decided or its time is up.

    Repeating is safe whatever happened before, also after a commit that went unanswered: the attempt's uid stands in
    what it wrote, and the statement recognises it. Raises OutcomeUnknown only if PostgreSQL stays away after that.
    """
    unknown: OutcomeUnknown | None = None
    while True:
        try:
            return _store(attempt, identity, counter, deadline - time.monotonic())
        except _RacedError:
            pass
        except OutcomeUnknown as error:
            unknown = error
        except (StorageUnavailable, errors.IdempotencyInProgress):
            # After an unanswered commit the claim that is in the way may be our own, still being committed.
            if unknown is None:
                raise
        if time.monotonic() >= deadline:
            raise unknown or errors.IdempotencyInProgress
        if unknown:
            # The server is going down or coming back; the pause keeps a thousand requests from hammering it.
            time.sleep(0.05)


def _store(attempt: Attempt, identity: Identity, counter: Counter, deadline_seconds: float) -> Verdict:
    with counter.database.transaction(deadline_seconds=deadline_seconds) as session:
        (verdict,) = store(
            session,
            [(identity, attempt)],
            workspace_id=identity.workspace_id,
            received_at=attempt.received_at,
            idempotency_ttl_seconds=counter.settings.idempotency_ttl_seconds,
        )
        if verdict.outcome is Outcome.RACED:
            raise _RacedError
    return verdict


class _RacedError(Exception):
    """Leaves the transaction, which rolls back what the statement had claimed."""
