"""Shall we take these? Decides on a batch: one transaction, one verdict per event in order, all or nothing on demand.

Steps: prove the key, keep to its rate, read the body (body.py), then in one transaction claim the Idempotency-Key for
the whole answer (record.py) and store what can be stored (storing.py). The answer is recorded as it is sent.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from app.credentials.verification import Identity
from app.database.engine import Database, TenantScope
from app.errors import (
    BatchRejected,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    OutcomeUnknown,
    Refusal,
    StorageUnavailable,
)
from app.identifiers import uuid7
from app.ingest.acceptance import REFUSALS, Caller, Counter, identify, require_live
from app.ingest.batch import answer, record
from app.ingest.batch.body import Batch, read_batch
from app.ingest.batch.record import BatchRecord, Place
from app.ingest.batch.storing import AgainError, PoisonedError, Stored, executing, store_all, store_apart
from app.ingest.envelope import Attempt, Envelope, Receipt
from app.ingest.mismatch import NAMED, named_refusals
from app.ingest.storage import Execute, Outcome
from app.ingest.table_locks import is_table_locked
from app.rate_limits import Allowance, events_worth
from app.telemetry import metrics
from app.wire.idempotency_key import read_idempotency_key

# What holds for a batch whose commit went unanswered: it was found out behind all its claims, alone in its workspace.
_CERTAIN: Final[tuple[type[Refusal], ...]] = (BatchRejected, IdempotencyKeyReused, *REFUSALS.values())
_LOOK_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class BatchSubmission:
    """A batch as it came over the counter, nothing of it believed yet."""

    caller: Caller
    idempotency_header: str | None
    is_atomic: Callable[[], bool]
    """Reads the query. May raise BadRequest."""
    media_type: Callable[[], str]
    """Says which form the body has. May raise UnsupportedMediaType."""
    read_body: Callable[[], bytes]
    """Reads the body, bounded; called only for a proven key. May raise PayloadTooLarge, UnsupportedMediaType."""


@dataclass(frozen=True, slots=True)
class _BatchAttempt:
    """A batch that could be read, and our own marks on it."""

    batch: Batch
    caller: Caller
    is_atomic: bool
    idempotency_key: str | None
    batch_uid: UUID
    attempts: tuple[Attempt, ...]
    """Of the events that could be read, in order. Repeating them with the same uids is safe."""


@dataclass(slots=True)
class _Progress:
    """What the tries to store a batch have found out so far."""

    is_poisoned: bool = False
    """PostgreSQL has refused an event, and with it the whole statement."""
    latest: Receipt | None = None
    """What the latest try would have been answered; it holds if the commit that went unanswered took place."""
    totals: Mapping[str, int] = field(default_factory=dict)
    """How many events of that answer have which verdict."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """How many events that answer rejects, by code."""
    unknown: OutcomeUnknown | None = None
    """Set once a commit went unanswered."""

    def note(self, error: OutcomeUnknown | PoisonedError | AgainError) -> None:
        """What to do better with the next try."""
        if isinstance(error, OutcomeUnknown):
            self.unknown = error
        self.is_poisoned |= isinstance(error, PoisonedError)


def accept_batch(submission: BatchSubmission, counter: Counter) -> tuple[Receipt, Allowance]:
    """Take a batch: the receipt holds a verdict per event, once those that are stored are committed.

    Raises a Refusal: nothing was stored.
    """
    identity = identify(submission.caller, counter)
    try:
        return _accept_batch(submission, identity, counter)
    except Refusal as refusal:
        counter.refusals.count(identity, refusal)
        raise


def _accept_batch(submission: BatchSubmission, identity: Identity, counter: Counter) -> tuple[Receipt, Allowance]:
    # Whoever has nothing left is told before 5 MiB of it are read, and pays for its size before a parser reads it; how
    # many events there are is known after that.
    counter.rate_limiter.admit(identity, 0)
    with _telling_only_the_living(identity, counter):
        idempotency_key = read_idempotency_key(submission.idempotency_header)
        is_atomic = submission.is_atomic()
        media_type = submission.media_type()
        body = submission.read_body()
    paid = events_worth(len(body))
    counter.rate_limiter.admit(identity, paid)
    # Not earlier: who is slow to send must not take a place from who has sent.
    with counter.batch_places.held(identity.workspace_id):
        with _telling_only_the_living(identity, counter):
            batch = read_batch(
                body,
                media_type,
                is_atomic=is_atomic,
                event_bytes_max=counter.settings.request_bytes_max,
            )
        allowance = counter.rate_limiter.admit(identity, max(len(batch.events), paid), paid=paid)
        attempt = _attempt(batch, submission, idempotency_key, is_atomic=is_atomic)
        return _store_once(attempt, identity, counter, _deadline(counter)), allowance


def _deadline(counter: Counter) -> float:
    return time.monotonic() + counter.settings.storage_deadline_seconds


@contextmanager
def _telling_only_the_living(identity: Identity, counter: Counter) -> Iterator[None]:
    try:
        yield
    except Refusal:
        require_live(identity, counter)
        raise


def _attempt(
    batch: Batch, submission: BatchSubmission, idempotency_key: str | None, *, is_atomic: bool
) -> _BatchAttempt:
    caller = submission.caller
    return _BatchAttempt(
        batch=batch,
        caller=caller,
        is_atomic=is_atomic,
        idempotency_key=idempotency_key,
        batch_uid=uuid7(),
        attempts=tuple(
            Attempt(
                envelope=event,
                idempotency_key=None,
                event_uid=uuid7(),
                address=caller.address,
                origin=caller.origin,
            )
            for event in batch.events
            if isinstance(event, Envelope)
        ),
    )


def _store_once(attempt: _BatchAttempt, identity: Identity, counter: Counter, deadline: float) -> Receipt:
    """Repeat the batch until it is decided or its time is up; safe, as with single events (committer.py)."""
    progress = _Progress()
    while True:
        try:
            remaining = deadline - time.monotonic()
            with counter.database.transaction(identity.workspace_id, deadline_seconds=remaining) as session:
                progress.latest = _store(attempt, identity, counter, executing(session), progress)
        except (OutcomeUnknown, PoisonedError, AgainError) as error:
            progress.note(error)
        except Exception as error:  # noqa: BLE001 - raised again, or the outcome is unknown
            # Even the claim that is in the way may be our own, still being committed.
            if progress.unknown is None or isinstance(error, _CERTAIN):
                raise _named(error, counter.database) from error.__cause__
        else:
            if not progress.latest.is_replay:
                _count(progress, identity, counter)
            return progress.latest
        if time.monotonic() >= deadline:
            raise progress.unknown or IdempotencyInProgress
        time.sleep(0.05 if progress.unknown else 0.005)


def _named(error: Exception, database: Database) -> Exception:
    """What the caller is told: a claim that another transaction holds is one thing, a table that is locked another."""
    if not isinstance(error, IdempotencyInProgress):
        return error
    with (
        suppress(StorageUnavailable),
        database.transaction(TenantScope.NONE, deadline_seconds=_LOOK_SECONDS) as session,
    ):
        if not is_table_locked(executing(session)):
            return error
    return StorageUnavailable()


def _count(progress: _Progress, identity: Identity, counter: Counter) -> None:
    counter.refusals.count_events(identity, progress.rejected)
    for verdict, events in progress.totals.items():
        metrics.BATCH_EVENTS.labels(verdict).inc(events)


def _store(
    attempt: _BatchAttempt, identity: Identity, counter: Counter, execute: Execute, progress: _Progress
) -> Receipt:
    settings = counter.settings
    caller = attempt.caller
    place = Place(caller.address, caller.origin)
    is_alone = progress.unknown is not None
    refusal = record.begin(execute, identity, place, settings.idempotency_wait_seconds, is_alone=is_alone)
    claim = None
    if attempt.idempotency_key is not None:
        claim = BatchRecord(execute, identity, attempt.idempotency_key, attempt.batch_uid)
    if refusal is not None:
        # Committed before by this very batch, in a commit that went unanswered: that counts, whatever changed since.
        if progress.latest is not None and _is_committed(attempt, identity, counter, execute, claim):
            return progress.latest
        raise named_refusals(execute, identity, address=caller.address, origin=caller.origin).get(
            refusal, REFUSALS[refusal]()
        )
    if claim is not None:
        answered = claim.claim(attempt.batch.fingerprint, settings.idempotency_ttl_seconds)
        if answered is not None:
            if answered.is_replay:
                those = answer.accepted(answered.body, attempt.batch.events)
                sizes = [len(envelope.payload) for envelope in those]
                claim.count_replay(sizes, caller.address)
            return answered
    store = store_apart if progress.is_poisoned else store_all
    stored = store(execute, identity, attempt.attempts, settings)
    judged = _judged(attempt, stored)
    named: answer.Named = {}
    if any(not isinstance(it, Refusal) and it[1].outcome in NAMED for it in stored):
        named = named_refusals(execute, identity, address=caller.address, origin=caller.origin)
    if attempt.is_atomic:
        answer.require_all(judged, named)
    body, progress.totals, progress.rejected = answer.answer(judged, named)
    if claim is not None:
        claim.answer(body)
    return Receipt(200, body)


def _is_committed(
    attempt: _BatchAttempt, identity: Identity, counter: Counter, execute: Execute, claim: BatchRecord | None
) -> bool:
    """Whether the commit that went unanswered took place: one mark of ours is enough, they were committed together."""
    if claim is not None:
        return claim.is_ours()
    # The key has been refused, so that nothing is written now; what is already there is recognised all the same.
    stored = store_all(execute, identity, attempt.attempts, counter.settings)
    return any(not isinstance(it, Refusal) and it[1].outcome is Outcome.RESUMED for it in stored)


def _judged(attempt: _BatchAttempt, stored: list[Stored]) -> list[answer.Judged]:
    those = iter(stored)
    return [event if isinstance(event, Refusal) else next(those) for event in attempt.batch.events]
