"""Stores a batch: one transaction for all of it, made again until it is decided or its time is up.

Steps of a try: hold the workspace's barrier, judge the key, claim the Idempotency-Key for the whole answer (record.py),
store what can be stored (storing.py), and record the answer as it is sent.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
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
from app.ingest.acceptance import Client
from app.ingest.batch import answer, record
from app.ingest.batch.body import Batch
from app.ingest.batch.record import BatchRecord
from app.ingest.batch.storing import AgainError, PoisonedError, Stored, executing, store_all, store_apart
from app.ingest.envelope import Attempt, Receipt
from app.ingest.retries import PAUSE_SECONDS
from app.ingest.services import IngestServices
from app.ingest.storage import Execute, Outcome, Verdict
from app.ingest.table_locks import is_table_locked
from app.ingest.verdicts import REFUSALS, named_refusals, refusal_in
from app.telemetry import metrics

# Refusals that are certain even if an earlier commit went unanswered: they were found behind all claims of the batch,
# alone in its workspace.
_CERTAIN: Final[tuple[type[Refusal], ...]] = (BatchRejected, IdempotencyKeyReused, *REFUSALS.values())
_LOOK_SECONDS: Final = 0.5
# Before a try that follows a conflict: what stood in the way has gone.
_PAUSE_SECONDS: Final = 0.005


@dataclass(frozen=True, slots=True)
class BatchAttempt:
    """A batch that could be read, and our own marks on it."""

    batch: Batch
    client: Client
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
    """The answer of the latest try; right if the commit that went unanswered took place."""
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


def store_until_decided(attempt: BatchAttempt, identity: Identity, services: IngestServices) -> Receipt:
    """Repeat the batch until it is decided or its time is up; safe, as with single events (committer.py)."""
    progress = _Progress()
    deadline = _deadline(services)
    while True:
        try:
            remaining = deadline - time.monotonic()
            with services.database.transaction(identity.workspace_id, deadline_seconds=remaining) as session:
                progress.latest = _store(attempt, identity, services, executing(session), progress)
        except (OutcomeUnknown, PoisonedError, AgainError) as error:
            progress.note(error)
        except Exception as error:  # noqa: BLE001 - raised again, or the outcome is unknown
            # Even the claim that is in the way may be our own, still being committed.
            if progress.unknown is None or isinstance(error, _CERTAIN):
                raise _named(error, services.database) from error.__cause__
        else:
            if not progress.latest.is_replay:
                _count(progress, identity, services)
            return progress.latest
        if time.monotonic() >= deadline:
            raise progress.unknown or IdempotencyInProgress
        time.sleep(PAUSE_SECONDS if progress.unknown else _PAUSE_SECONDS)


def _deadline(services: IngestServices) -> float:
    return time.monotonic() + services.settings.storage_deadline_seconds


def _named(error: Exception, database: Database) -> Exception:
    """The refusal to answer with: a claim that another transaction holds is not a locked table."""
    if not isinstance(error, IdempotencyInProgress):
        return error
    with (
        suppress(StorageUnavailable),
        database.transaction(TenantScope.NONE, deadline_seconds=_LOOK_SECONDS) as session,
    ):
        if not is_table_locked(executing(session)):
            return error
    return StorageUnavailable()


def _count(progress: _Progress, identity: Identity, services: IngestServices) -> None:
    services.refusals.count_events(identity, progress.rejected)
    for verdict, events in progress.totals.items():
        metrics.BATCH_EVENTS.labels(verdict).inc(events)


def _store(
    attempt: BatchAttempt, identity: Identity, services: IngestServices, execute: Execute, progress: _Progress
) -> Receipt:
    settings = services.settings
    client = attempt.client
    is_alone = progress.unknown is not None
    refused, source = record.begin(execute, identity, client, settings.idempotency_wait_seconds, is_alone=is_alone)
    claim = None
    if attempt.idempotency_key is not None:
        claim = BatchRecord(execute, identity, source, attempt.idempotency_key, attempt.batch_uid)
    if refused is not None:
        # Committed before by this very batch, in a commit that went unanswered: that counts, whatever changed since.
        if progress.latest is not None and _is_committed(attempt, identity, services, execute, claim):
            return progress.latest
        raise refusal_in(Verdict(refused, None), named_refusals((refused,), execute, identity, client))
    if claim is not None:
        answered = claim.claim(attempt.batch.fingerprint, settings.idempotency_ttl_seconds)
        if answered is not None:
            if answered.is_replay:
                those = answer.accepted(answered.body, attempt.batch.events)
                sizes = [len(envelope.payload) for envelope in those]
                claim.count_replay(sizes, client.address)
            return answered
    store = store_apart if progress.is_poisoned else store_all
    stored = store(execute, identity, attempt.attempts, settings)
    judged = _judged(attempt, stored)
    outcomes = {it[1].outcome for it in stored if not isinstance(it, Refusal)}
    named = named_refusals(outcomes, execute, identity, client)
    if attempt.is_atomic:
        answer.require_all(judged, named)
    body, progress.totals, progress.rejected = answer.answer(judged, named)
    if claim is not None:
        claim.answer(body)
    return Receipt(200, body)


def _is_committed(
    attempt: BatchAttempt, identity: Identity, services: IngestServices, execute: Execute, claim: BatchRecord | None
) -> bool:
    """Whether the commit that went unanswered took place: one mark of ours is enough, they were committed together."""
    if claim is not None:
        return claim.is_ours()
    # The key has been refused, so that nothing is written now; what is already there is recognised all the same.
    stored = store_all(execute, identity, attempt.attempts, services.settings)
    return any(not isinstance(it, Refusal) and it[1].outcome is Outcome.RESUMED for it in stored)


def _judged(attempt: BatchAttempt, stored: list[Stored]) -> list[answer.Judged]:
    those = iter(stored)
    return [event if isinstance(event, Refusal) else next(those) for event in attempt.batch.events]
