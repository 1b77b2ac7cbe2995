"""One round on a contended workspace: finds out which of its attempts wait, and for what.

The attempts are tried as a group, which is halved until the blocked ones are found. One of these waits for all, because
nearly always one transaction blocks them all.
"""

import time
from collections.abc import Sequence
from typing import Final

import psycopg

from app.config import Settings
from app.database.dedicated_connection import DedicatedConnection
from app.errors import IdempotencyInProgress, OutcomeUnknown, StorageUnavailable
from app.ingest.pending_write import GROUP_BYTES_MAX, GROUP_EVENTS_MAX, PendingWrite, refuse_unsent, write_group
from app.ingest.retries import Failure, caused_by, failure_of, refusal_by_database
from app.ingest.table_locks import waits_for_table

_ROUND_SECONDS: Final = 0.1
# A claim that is contended here is held for long, by a session that hangs or by a large batch.
_LOCK_WAIT_SECONDS: Final = 0.002
# A wait in PostgreSQL's lock queue keeps its position there, so it may be longer.
_BARRIER_WAIT_SECONDS: Final = 0.2
_HELD_WAIT_SECONDS: Final = 0.05
# Answered as "in progress" before the deadline; at the deadline it would be "too slow".
_MARGIN_SECONDS: Final = 0.1


class Entry:
    """An attempt in the queue of its workspace."""

    __slots__ = ("held_by", "is_held", "tried", "wait_until", "write")

    def __init__(self, write: PendingWrite, claim_wait_seconds: float) -> None:
        self.write = write
        self.wait_until = min(time.monotonic() + claim_wait_seconds, write.deadline - _MARGIN_SECONDS)
        """Until when it may wait for its claims."""
        self.is_held = False
        """Whether another transaction holds a claim of it."""
        self.held_by: psycopg.Error | None = None
        self.tried = 0.0


class Round:
    """Of one workspace, on one connection."""

    def __init__(self, entries: Sequence[Entry], connection: DedicatedConnection, settings: Settings) -> None:
        self._entries = entries
        self._connection = connection
        self._settings = settings
        self._until = time.monotonic() + _ROUND_SECONDS
        self.is_contended = False
        """Whether a group of this workspace has to wait for another transaction, or is refused."""
        self.needs_rest = False
        """Whether nothing can be done just now: PostgreSQL is away, or a table is locked."""

    def run(self) -> None:
        """Resolve what can be resolved."""
        if group := self._pick():
            self._write_apart(group)
        held = [entry for entry in self._entries if entry.is_held]
        for entry in held:
            # An unanswered one may itself hold its claim: it is repeated until its deadline.
            if time.monotonic() >= entry.wait_until and not entry.write.may_be_stored:
                entry.write.resolve(caused_by(entry.held_by, IdempotencyInProgress()))
        left = [entry for entry in held if not entry.write.is_resolved]
        if left and not self._is_over():
            self._wait_for_one(left)

    def _is_over(self) -> bool:
        return self.needs_rest or time.monotonic() >= self._until

    def _pick(self) -> list[Entry]:
        """A group of attempts not known to be blocked; no two with one Idempotency-Key."""
        held = {claim for entry in self._entries if entry.is_held for claim in _claims(entry)}
        group: list[Entry] = []
        keys: set[object] = set()
        payload_bytes = 0
        for entry in self._entries:
            if entry.is_held or entry.write.is_resolved:
                continue
            if any(claim in held for claim in _claims(entry)):
                entry.is_held = True
                continue
            key = entry.write.idempotency_claim
            if key is not None and key in keys:
                continue
            keys.add(key)
            group.append(entry)
            payload_bytes += entry.write.payload_bytes
            if len(group) >= GROUP_EVENTS_MAX or payload_bytes >= GROUP_BYTES_MAX:
                break
        return group

    def _write_apart(self, group: list[Entry]) -> None:
        parts = [group]
        while parts and not self._is_over():
            part = parts.pop()
            error = self._try([entry.write for entry in part], _LOCK_WAIT_SECONDS)
            if error is None or failure_of(error) is Failure.ABORTED or self._is_table(error):
                continue
            self.is_contended = True
            if len(part) > 1:
                half = len(part) // 2
                parts += [part[half:], part[:half]]
            elif failure_of(error) is Failure.LOCKED:
                part[0].is_held, part[0].held_by = True, error
            else:
                part[0].write.resolve(refusal_by_database(error))

    def _wait_for_one(self, held: Sequence[Entry]) -> None:
        """Wait for one of the blocked attempts; if it gets through, all are tried again."""
        one = min(held, key=lambda entry: entry.tried)
        one.tried = time.monotonic()
        error = self._try([one.write], _HELD_WAIT_SECONDS)
        if failure_of(error) is Failure.LOCKED:
            self.is_contended = True
        elif one.write.is_resolved:
            for entry in held:
                entry.is_held = False

    def _try(
        self, writes: Sequence[PendingWrite], lock_wait_seconds: float, *, waits: bool = False
    ) -> psycopg.Error | None:
        """Write a group; the error if PostgreSQL refuses it as a whole."""
        try:
            undecided = write_group(
                self._connection, writes, self._settings, lock_wait_seconds=lock_wait_seconds, waits=waits
            )
        except StorageUnavailable as error:
            self.needs_rest = True
            if not isinstance(error, OutcomeUnknown):
                refuse_unsent(writes, error)
        except psycopg.Error as error:
            return error
        else:
            if undecided.held:
                # In PostgreSQL's lock queue, where later requests do not overtake. The next round sees other obstacles.
                self._try(undecided.held, _BARRIER_WAIT_SECONDS, waits=True)
        return None

    def _is_table(self, error: psycopg.Error) -> bool:
        """Whether a table is locked: then no attempt is to blame, and none can be written."""
        self.needs_rest |= failure_of(error) is Failure.LOCKED and waits_for_table(self._connection)
        return self.needs_rest


def _claims(entry: Entry) -> list[object]:
    claims = (entry.write.idempotency_claim, entry.write.event_claim)
    return [claim for claim in claims if claim is not None]
