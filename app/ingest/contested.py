"""Attempts whose claims another transaction holds: they wait apart, so that nobody else waits for them.

Nearly always the holder is another process that commits within milliseconds, and a group waits that long. What is
left is a session that hangs: in its own few threads an attempt here waits as long as the contract says, and for a
while all attempts that need the same claims come here without delaying a group first.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import psycopg
from psycopg.errors import DataError, DeadlockDetected, LockNotAvailable, SerializationFailure

from app.config import Settings
from app.connections import Lane
from app.database import Database
from app.errors import Fault, IdempotencyInProgress, OutcomeUnknown, SchemaValidationFailed, StorageUnavailable
from app.ingest.storage import Outcome, has_waited_for_a_claim, store
from app.ingest.ticket import Decision, Ticket

_THREADS: Final = 4
_WAITING_MAX: Final = 64
# For how long a claim that kept somebody waiting is taken to be held still.
_REMEMBERED_SECONDS: Final = 2.0
_REMEMBERED_MAX: Final = 10_000


class Contested:
    """Where attempts wait for claims that others hold."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._lanes = threading.local()
        self._pool: ThreadPoolExecutor | None = None
        self._until: dict[object, float] = {}
        self._places = threading.Semaphore(_WAITING_MAX)

    def takes(self, ticket: Ticket) -> bool:
        """Whether `ticket` needs a claim that is known to be held; then it is taken over."""
        if not self._until:
            return False
        now = time.monotonic()
        held = [claim for claim in _claims(ticket) if self._until.get(claim, 0) > now]
        if held:
            self._wait(ticket)
        elif len(self._until) > _REMEMBERED_MAX or max(self._until.values()) <= now:
            self._until.clear()
        return bool(held)

    def add(self, ticket: Ticket, error: psycopg.Error) -> None:
        """Take over an attempt that PostgreSQL has refused with `error` while it stood alone."""
        if isinstance(error, LockNotAvailable):
            self._remember(ticket, error)
            self._wait(ticket)
        elif isinstance(error, SerializationFailure | DeadlockDetected):
            self._wait(ticket)
        else:
            ticket.settle(_refusal_for(error))

    def _remember(self, ticket: Ticket, error: LockNotAvailable) -> None:
        until = time.monotonic() + _REMEMBERED_SECONDS
        claims = _claims(ticket)[:2] if has_waited_for_a_claim(error) else _claims(ticket)[2:]
        self._until.update(dict.fromkeys(claims, until))

    def _wait(self, ticket: Ticket) -> None:
        if not self._places.acquire(blocking=False):
            ticket.settle(StorageUnavailable("Nothing was stored: too many requests wait for the same keys."))
            return
        self._pool = self._pool or ThreadPoolExecutor(_THREADS, "contested")
        self._pool.submit(self._decide, ticket)

    def _decide(self, ticket: Ticket) -> None:
        try:
            ticket.settle(self._decision(ticket))
        finally:
            self._places.release()

    def _decision(self, ticket: Ticket) -> Decision:
        """Make the attempt until it is decided or its time is up."""
        while ticket.remaining_seconds > 0:
            try:
                lock_wait = min(self._settings.idempotency_wait_seconds, ticket.remaining_seconds)
                (verdict,) = store(
                    lambda statement, parameters: self._lane.run(statement, parameters, ticket.deadline),
                    [(ticket.identity, ticket.attempt)],
                    idempotency_ttl_seconds=self._settings.idempotency_ttl_seconds,
                    lock_wait_seconds=lock_wait,
                )
                if verdict.outcome is not Outcome.RACED:
                    return verdict
            except OutcomeUnknown as error:
                ticket.unanswered = error
                time.sleep(0.05)
            except StorageUnavailable as error:
                if ticket.unanswered is None:
                    return error
                time.sleep(0.05)
            except LockNotAvailable as error:
                # After an unanswered commit the claim in the way may be our own, still being committed.
                if ticket.unanswered is None:
                    return _with_cause(
                        IdempotencyInProgress() if has_waited_for_a_claim(error) else StorageUnavailable(), error
                    )
            except (SerializationFailure, DeadlockDetected):
                continue
            except psycopg.Error as error:
                return _refusal_for(error)
        return ticket.unanswered or IdempotencyInProgress()

    @property
    def _lane(self) -> Lane:
        if not hasattr(self._lanes, "lane"):
            self._lanes.lane = self._database.lane()
        lane: Lane = self._lanes.lane
        return lane


def _claims(ticket: Ticket) -> tuple[object, ...]:
    return ticket.idempotency_claim, ticket.event_claim, ticket.identity.workspace_id


def _refusal_for(error: psycopg.Error) -> Exception:
    """What the caller hears of an error that PostgreSQL itself gave, having rolled back."""
    if isinstance(error, DataError):
        said = error.diag.message_primary or "it cannot be stored"
        return _with_cause(SchemaValidationFailed(faults=(Fault("", f"The database refuses it: {said}."),)), error)
    if isinstance(error, psycopg.OperationalError):
        return _with_cause(StorageUnavailable(), error)
    return error


def _with_cause(refusal: Exception, cause: Exception) -> Exception:
    refusal.__cause__ = cause
    return refusal
