"""Shall we take it? Decides on one event, in the order in which a caller wants to hear what is wrong.

Steps and their price on a warm road (bench/prices.py): prove the key (1 µs), keep to its rate (2 µs), read the envelope
(7 µs; 70 if the exact reader has to), then wait for the commit of the group that the event goes with (committer.py).
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from sqlalchemy import text

from app import errors
from app.concurrency.limit import ConcurrencyLimit
from app.config import Settings
from app.credentials.verification import Credentials, Identity
from app.database.engine import Database
from app.errors import RateLimitExceeded, Refusal, StorageUnavailable
from app.identifiers import uuid7
from app.ingest.authentication import authenticate
from app.ingest.committer import Committer
from app.ingest.common_envelope import read_common_envelope
from app.ingest.cors import Origins
from app.ingest.envelope import WANTED, Attempt, read_envelope
from app.ingest.mismatch import NAMED, named_refusals
from app.ingest.pending_write import WriteResult
from app.ingest.refusals import Refusals
from app.ingest.storage import Outcome, Verdict
from app.ingest.timestamps import timestamp_refusal
from app.rate_limits import Allowance, RateLimiter, events_worth
from app.wire.body_reads import BodyReadLimiter
from app.wire.exact_json import read_object
from app.wire.idempotency_key import read_idempotency_key

REFUSALS: Final[dict[Outcome, type[Refusal]]] = {
    Outcome.INVALID_SOURCE_KEY: errors.InvalidSourceKey,
    Outcome.WORKSPACE_SUSPENDED: errors.WorkspaceSuspended,
    Outcome.SOURCE_DISABLED: errors.SourceDisabled,
    Outcome.SOURCE_MISMATCH: errors.SourceMismatch,
    Outcome.ENVIRONMENT_MISMATCH: errors.EnvironmentMismatch,
    Outcome.EVENT_TYPE_NOT_ALLOWED: errors.EventTypeNotAllowed,
    Outcome.ORIGIN_NOT_ALLOWED: errors.OriginNotAllowed,
    Outcome.ADDRESS_NOT_ALLOWED: errors.AddressNotAllowed,
    Outcome.IDEMPOTENCY_KEY_REUSED: errors.IdempotencyKeyReused,
    Outcome.DUPLICATE_EVENT: errors.DuplicateEvent,
    Outcome.TIMESTAMP_OUT_OF_RANGE: errors.TimestampOutOfRange,
}
# A refusal is known already; its words are not worth a longer wait.
_NAMING_SECONDS: Final = 1.0
_IS_LIVE = text(
    "SELECT revoked_at IS NULL AND (expires_at <= now() OR expires_at = expired_at) IS NOT TRUE"
    " FROM source_keys WHERE public_id = :public_id"
)


@dataclass(frozen=True, slots=True)
class Counter:
    """What the road needs of the house."""

    settings: Settings
    database: Database
    credentials: Credentials
    committer: Committer
    rate_limiter: RateLimiter
    batch_places: ConcurrencyLimit
    body_reads: BodyReadLimiter
    origins: Origins
    refusals: Refusals


@dataclass(frozen=True, slots=True)
class Decided:
    """What the door has found out about a request that it leaves to Flask: whose it is and what became of it."""

    identity: Identity
    allowance: Allowance | None
    """None if the rate limiter refused."""
    decision: WriteResult


DECIDED: Final = "lariba.decided"
"""Where a Decided stands in the WSGI environment, or an exception that the door met before it had an attempt."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who stands at the counter: the key that is shown, and where it is shown from."""

    key: str | None
    address: str
    """Of the client, see client_address.py."""
    origin: str | None
    """Of the web page, see key_policies.origin_of."""
    greet: Callable[[Identity, float], None]
    """Called once the key is proven, whatever becomes of the request, with the moment (time.monotonic() seconds) until
    which it may wait. May raise StorageUnavailable.
    """


@dataclass(frozen=True, slots=True)
class Submission:
    """A request as it came over the counter, nothing of it believed yet."""

    caller: Caller
    idempotency_header: str | None
    read_body: Callable[[], bytes]
    """Reads the body, bounded; called only for a proven key. May raise PayloadTooLarge, UnsupportedMediaType."""


def accept(submission: Submission, counter: Counter) -> tuple[Verdict, Allowance]:
    """Take one event: the verdict holds the receipt once the event is committed, by this request or an earlier one.

    1. Prove the key. 2. Keep to its rate. 3. Read what was sent, which counts as several events if it is large;
    if it is wrong, say so only to a key that lives. 4. Store it. Raises a Refusal: nothing was stored.
    """
    identity = identify(submission.caller, counter)
    try:
        return _accept(submission, identity, counter)
    except Refusal as refusal:
        counter.refusals.count(identity, refusal)
        raise


def _accept(submission: Submission, identity: Identity, counter: Counter) -> tuple[Verdict, Allowance]:
    counter.rate_limiter.admit(identity)
    try:
        attempt, allowance = _read(submission, identity, counter)
    except RateLimitExceeded:
        raise
    except Refusal:
        require_live(identity, counter)
        raise
    # With a deadline of its own: a producer with a slow line has not waited for PostgreSQL while it sent its body.
    decision = counter.committer.store(identity, attempt)
    return accepted(decision, identity, submission.caller, counter.database), allowance


def accepted(decision: WriteResult, identity: Identity, caller: Caller, database: Database) -> Verdict:
    """The verdict, if it accepts. Raises the Refusal that any other one means, or what is wrong with us."""
    if isinstance(decision, Exception):
        raise decision
    if decision.outcome in NAMED:
        raise _named(decision.outcome, identity, caller, database)
    if (refusal := refusal_for(decision)) is not None:
        raise refusal
    return decision


def refusal_for(verdict: Verdict) -> Refusal | None:
    """The refusal that a verdict means; None if it accepts."""
    if verdict.outcome is Outcome.TIMESTAMP_OUT_OF_RANGE:
        return timestamp_refusal(verdict.detail)
    refusal = REFUSALS.get(verdict.outcome)
    return refusal() if refusal else None


def _named(outcome: Outcome, identity: Identity, caller: Caller, database: Database) -> Refusal:
    """The refusal with the right name in it; without it, if the database has gone away meanwhile."""
    named: dict[Outcome, Refusal] = {}
    with (
        suppress(StorageUnavailable),
        database.transaction(identity.workspace_id, deadline_seconds=_NAMING_SECONDS) as session,
    ):
        connection = session.connection()
        named = named_refusals(
            lambda statement, parameters: connection.exec_driver_sql(statement, tuple(parameters)).all(),
            identity,
            address=caller.address,
            origin=caller.origin,
        )
    return named.get(outcome) or REFUSALS[outcome]()


def identify(caller: Caller, counter: Counter) -> Identity:
    """Whose key the caller shows. Raises InvalidSourceKey and StorageUnavailable."""
    deadline = time.monotonic() + counter.settings.storage_deadline_seconds
    identity = authenticate(caller.key, counter.credentials, counter.database, deadline)
    caller.greet(identity, deadline)
    return identity


def _read(submission: Submission, identity: Identity, counter: Counter) -> tuple[Attempt, Allowance]:
    idempotency_key = read_idempotency_key(submission.idempotency_header)
    body = submission.read_body()
    allowance = counter.rate_limiter.admit(identity, events_worth(len(body)), paid=1)
    envelope = read_common_envelope(body) or read_envelope(read_object(body, WANTED))
    attempt = Attempt(
        envelope=envelope,
        idempotency_key=idempotency_key,
        event_uid=uuid7(),
        address=submission.caller.address,
        origin=submission.caller.origin,
    )
    return attempt, allowance


def require_live(identity: Identity, counter: Counter) -> None:
    """A revoked key learns that it is revoked, not what is wrong with its event. Raises InvalidSourceKey."""
    deadline_seconds = counter.settings.storage_deadline_seconds
    with counter.database.transaction(identity.workspace_id, deadline_seconds=deadline_seconds) as session:
        if not session.execute(_IS_LIVE, {"public_id": identity.public_id}).scalar_one_or_none():
            raise errors.InvalidSourceKey
