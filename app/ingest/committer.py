"""Group commit: all attempts that wait in this process go to PostgreSQL as one statement with one commit.

One thread per process does it. While it waits for PostgreSQL the next group gathers, so a group is as large as the load
makes it and an idle process waits for nobody. Whoever hands an attempt in is called back with its verdict, once, at
its deadline at the latest. A second thread keeps the time, because the first may be waiting for a frozen server.
"""

import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from multiprocessing.util import Finalize
from typing import Final

import psycopg
import structlog
from psycopg.errors import LockNotAvailable

from app import metrics
from app.config import Settings
from app.connections import Lane
from app.credentials import Identity
from app.database import Database
from app.errors import OutcomeUnknown, StorageUnavailable
from app.ingest.contested import Contested
from app.ingest.envelope import Attempt
from app.ingest.storage import Outcome, Verdict, store
from app.ingest.ticket import Decision, Ticket

_log = structlog.get_logger()

# Beyond this a larger group makes an event no cheaper, only its neighbours later (docs/performance.md).
_GROUP_EVENTS_MAX: Final = 256
_GROUP_BYTES_MAX: Final = 4 * 1024 * 1024
# What may wait in a process; a payload has 256 KiB at the most, so the number alone would bound nothing.
_QUEUE_BYTES_MAX: Final = 32 * 1024 * 1024
# How long a group waits for a claim that another transaction holds; then its attempts go one by one.
_GROUP_LOCK_WAIT_SECONDS: Final = 0.05
_SINGLE_LOCK_WAIT_SECONDS: Final = 0.02
# Where one group had company the next one has too: with a moment to gather it costs PostgreSQL a sixth less, and at
# half the top rate fewer events wait for a core (docs/performance.md). A producer alone waits for nobody.
_LINGER_SECONDS: Final = 0.001
# A server that is going down or coming back; the pause keeps all processes from hammering it.
_PAUSE_SECONDS: Final = 0.05
_TICK_SECONDS: Final = 0.05
# Of each group's statement: its events, its seconds, and how many the first event had waited before.
_GROUPS: Final = metrics.Tally(metrics.count_groups)


class Committer:
    """The one way to store single events in this process; starts its threads at the first use, in each forked child."""

    def __init__(self, database: Database, settings: Settings, every_tick: Callable[[], None]) -> None:
        """`every_tick` is called twenty times a second on the time keeper's thread, and at an orderly end."""
        self._database = database
        self._settings = settings
        self._every_tick = every_tick
        self._starting = threading.Lock()
        self._reset()
        _begin_again_after_fork(weakref.ref(self))

    def _reset(self) -> None:
        self._is_running = False
        self._queue: queue.SimpleQueue[Ticket] = queue.SimpleQueue()
        self._open: deque[Ticket] = deque()
        self._open_bytes = 0
        self._held: list[Ticket] = []
        self._contested = Contested(self._database, self._settings)

    def store(self, identity: Identity, attempt: Attempt) -> Verdict:
        """Store one attempt and wait for its verdict.

        Raises StorageUnavailable, OutcomeUnknown, IdempotencyInProgress, and what no other attempt must suffer for.
        """
        decided = threading.Lock()
        decided.acquire()
        decisions: list[Decision] = []

        def take(decision: Decision) -> None:
            decisions.append(decision)
            decided.release()

        self.submit(identity, attempt, take)
        # The time keeper settles every ticket at its deadline, so this wait has an end.
        decided.acquire()
        if isinstance(decisions[0], BaseException):
            raise decisions[0]
        return decisions[0]

    def submit(self, identity: Identity, attempt: Attempt, settle: Callable[[Decision], None]) -> None:
        """Hand one attempt in; `settle` is called once, on a thread of the committer's.

        Raises StorageUnavailable at once when too much is waiting already.
        """
        ticket = Ticket(identity, attempt, time.monotonic() + self._settings.storage_deadline_seconds, settle)
        if (
            self._queue.qsize() >= self._settings.queue_events_max
            or self._open_bytes + ticket.payload_bytes > _QUEUE_BYTES_MAX
        ):
            raise StorageUnavailable("Nothing was stored: too much is waiting already. Repeat the same request later.")
        if not self._is_running:
            self._start()
        self._open_bytes += ticket.payload_bytes
        self._open.append(ticket)
        self._queue.put(ticket)

    def _start(self) -> None:
        with self._starting:
            if not self._is_running:
                threading.Thread(target=self._run, name="committer", daemon=True).start()
                threading.Thread(target=self._keep_time, name="committer-time", daemon=True).start()
                # Not atexit, which a server's forked worker never comes to.
                Finalize(None, self._every_tick, exitpriority=0)
                self._is_running = True

    def _run(self) -> None:
        lane = self._database.lane()
        while True:
            try:
                group = self._gather()
                self._commit_group(lane, group)
                if len(group) > 1:
                    time.sleep(_LINGER_SECONDS)
            except Exception:  # noqa: BLE001 - whatever it is, the thread goes on
                # Nobody would start this thread again; its tickets are settled at their deadline.
                _log.exception("committer_crashed")

    def _gather(self) -> list[Ticket]:
        """Wait for a ticket, then take all that are waiting, up to a group's measure.

        Two attempts with one Idempotency-Key are not for one group: the second is answered from the first one's
        record. It begins the next group.
        """
        held, self._held = self._held, []
        group: list[Ticket] = []
        claims: set[object] = set()
        payload_bytes = 0
        while len(group) < _GROUP_EVENTS_MAX and payload_bytes < _GROUP_BYTES_MAX:
            try:
                ticket = held.pop(0) if held else self._queue.get(block=not group and not self._held)
            except queue.Empty:
                break
            if ticket.remaining_seconds <= 0:
                ticket.expire()
            ticket.is_taken = True
            if ticket.is_settled:
                continue
            if self._contested.takes(ticket):
                continue
            claim = ticket.idempotency_claim
            if claim in claims:
                self._held.append(ticket)
                continue
            if claim is not None:
                claims.add(claim)
            payload_bytes += ticket.payload_bytes
            group.append(ticket)
        self._held += held
        return group

    def _commit_group(self, lane: Lane, group: list[Ticket], lock_wait: float = _GROUP_LOCK_WAIT_SECONDS) -> None:
        """Settle every ticket of `group`, or pass it on.

        Repeating is safe whatever happened before, also after a commit that went unanswered: each attempt's uid stands
        in what it wrote, and the statement recognises it.
        """
        if not group:
            return None
        # The newest one's: whoever has less time left is answered by the time keeper, and takes nobody along.
        deadline = max(ticket.deadline for ticket in group)
        while True:
            try:
                verdicts = self._store_group(lane, group, deadline, lock_wait)
            except OutcomeUnknown as error:
                for ticket in group:
                    ticket.unanswered = error
            except StorageUnavailable as error:
                if group[0].unanswered is None:
                    return _settle_all(group, error)
            except psycopg.Error as error:
                return self._isolate(lane, group, error)
            else:
                return self._settle(group, verdicts)
            if time.monotonic() >= deadline - _PAUSE_SECONDS:
                return _settle_all(group, group[0].unanswered or OutcomeUnknown())
            time.sleep(_PAUSE_SECONDS)

    def _store_group(self, lane: Lane, group: list[Ticket], deadline: float, lock_wait: float) -> list[Verdict]:
        began = time.monotonic()
        try:
            return store(
                lambda statement, parameters: lane.run(statement, parameters, deadline),
                [(ticket.identity, ticket.attempt) for ticket in group],
                idempotency_ttl_seconds=self._settings.idempotency_ttl_seconds,
                lock_wait_seconds=lock_wait,
                waits=False,
            )
        finally:
            came = group[0].deadline - self._settings.storage_deadline_seconds
            _GROUPS.note((len(group), time.monotonic() - began, began - came))

    def _settle(self, group: list[Ticket], verdicts: list[Verdict]) -> None:
        for ticket, verdict in zip(group, verdicts, strict=True):
            if verdict.outcome is Outcome.RACED:
                self._held.append(ticket)
            elif verdict.outcome is Outcome.HELD:
                self._contested.add(ticket, LockNotAvailable())
            else:
                ticket.settle(verdict)

    def _isolate(self, lane: Lane, group: list[Ticket], error: psycopg.Error) -> None:
        """PostgreSQL has refused the group for one of its attempts: let each stand for itself."""
        if len(group) == 1:
            self._contested.add(group[0], error)
            return
        for ticket in group:
            self._commit_group(lane, [ticket], _SINGLE_LOCK_WAIT_SECONDS)

    def _keep_time(self) -> None:
        """Settle what has passed its deadline, and let go of what is settled."""
        while True:
            time.sleep(_TICK_SECONDS)
            now = time.monotonic()
            payload_bytes = 0
            for _ in range(len(self._open)):
                ticket = self._open.popleft()
                if ticket.deadline <= now:
                    ticket.expire()
                if not ticket.is_settled:
                    self._open.append(ticket)
                    payload_bytes += ticket.payload_bytes
            # What came in since the last tick may be miscounted by threads that add at once; here it is made right.
            self._open_bytes = payload_bytes
            metrics.QUEUE_EVENTS.set(len(self._open))
            try:
                self._every_tick()
            except Exception:  # noqa: BLE001 - whatever it is, the time must be kept
                _log.exception("tick_failed")


def _settle_all(group: list[Ticket], decision: Decision) -> None:
    for ticket in group:
        ticket.settle(decision)


def _begin_again_after_fork(reference: "weakref.ref[Committer]") -> None:
    """A forked child has none of its parent's threads, and must not answer its parent's tickets."""

    def begin_again() -> None:
        if (committer := reference()) is not None:
            committer._starting = threading.Lock()  # noqa: SLF001 - its own class
            committer._reset()  # noqa: SLF001

    os.register_at_fork(after_in_child=begin_again)
