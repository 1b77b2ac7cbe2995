"""Group commit: one thread per process writes all waiting attempts as one statement with one commit.

While the thread waits for PostgreSQL the next group gathers, so the load decides how large a group is, and an attempt
that comes alone is written at once. Each attempt's callback is called once with its result, at its deadline at the
latest: a second thread keeps the time, because the first may be waiting for a frozen server.

All workspaces share the writing thread, so it waits for none of them. An attempt that another transaction blocks moves
to the contention queue (contention.py); each workspace has a share of the queue, and workspaces take turns in a group
(shares.py).
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from multiprocessing.util import Finalize
from typing import Final

import psycopg
import structlog

from app.concurrency.fork import reset_after_fork
from app.config import Settings
from app.credentials.verification import Identity
from app.database.dedicated_connection import DedicatedConnection
from app.database.engine import Database
from app.errors import OutcomeUnknown, StorageUnavailable
from app.ingest.contention import ContentionQueue
from app.ingest.envelope import Attempt
from app.ingest.pending_write import (
    GROUP_BYTES_MAX,
    GROUP_EVENTS_MAX,
    PendingWrite,
    WriteResult,
    refuse_unsent,
    write_group,
)
from app.ingest.retries import PAUSE_SECONDS, Failure, failure_of
from app.ingest.shares import RoundRobin, Shares
from app.ingest.storage import Verdict
from app.ingest.table_locks import waits_for_table
from app.telemetry import metrics

_log = structlog.get_logger()

# What may wait in a process; a payload has 256 KiB at the most, so the number alone would bound nothing. A workspace
# alone gets half (shares.py).
_QUEUE_BYTES_MAX: Final = 64 * 1024 * 1024
# How long a group waits for a claim that another transaction holds: nearly always another process's group, which
# commits within milliseconds. After that the committer searches for the attempt that waits, for so long at the most.
_GROUP_LOCK_WAIT_SECONDS: Final = 0.02
_SEARCH_SECONDS: Final = 0.06
_SEARCH_LOCK_WAIT_SECONDS: Final = 0.005
# A group of several events is followed by another one, and a larger group costs less per event. So the committer waits
# after it, longer the larger it was, up to where a larger group saves little (docs/performance.md). After a group of
# one event it does not wait: a producer alone is not slowed down.
_LINGER_SECONDS_PER_EVENT: Final = 0.000_125
_LINGER_SECONDS_MAX: Final = 0.003
_TICK_SECONDS: Final = 0.05
# Of each group's statement: its events, its seconds, and how many the first event had waited before.
_GROUPS: Final = metrics.MetricBuffer(metrics.count_groups)


class Committer:
    """The one way to store single events in this process; starts its threads at the first use, in each forked child."""

    def __init__(self, database: Database, settings: Settings, every_tick: Callable[[], None]) -> None:
        """A thread calls `every_tick` twenty times a second; an orderly end of the process calls it once more."""
        self._database = database
        self._settings = settings
        self._every_tick = every_tick
        self._reset()
        reset_after_fork(self, Committer._reset)

    def _reset(self) -> None:
        """A forked child has none of its parent's threads, and must not answer what its parent was asked."""
        self._starting = threading.Lock()
        self._is_running = False
        self._unstarted = [
            ("committer-ticks", self._tick),
            ("committer-time", self._keep_time),
            ("committer", self._run),
        ]
        self._handed_in: queue.SimpleQueue[PendingWrite] = queue.SimpleQueue()
        self._shares = Shares(self._settings.queue_events_max, _QUEUE_BYTES_MAX)
        self._waiting: RoundRobin = RoundRobin()
        self._again: deque[PendingWrite] = deque()
        """For the next group: to be repeated, or behind another attempt with the same Idempotency-Key."""
        self._open: deque[PendingWrite] = deque()
        self._contention = ContentionQueue(self._database, self._settings)

    def store(self, identity: Identity, attempt: Attempt) -> Verdict:
        """Store one attempt and wait for its verdict.

        Raises StorageUnavailable, OutcomeUnknown, IdempotencyInProgress, and what no other attempt must suffer for.
        """
        decided = threading.Lock()
        decided.acquire()
        results: list[WriteResult] = []

        def take(result: WriteResult) -> None:
            results.append(result)
            decided.release()

        self.submit(identity, attempt, take)
        # The time keeper resolves every attempt at its deadline, so this wait has an end.
        decided.acquire()
        if isinstance(results[0], BaseException):
            raise results[0]
        return results[0]

    def submit(self, identity: Identity, attempt: Attempt, resolved: Callable[[WriteResult], None]) -> None:
        """Queue one attempt; a thread of the committer calls `resolved` once.

        Raises StorageUnavailable at once when too much is waiting, in all or of this workspace.
        """
        if not self._is_running:
            self._start()
        write = PendingWrite(identity, attempt, time.monotonic() + self._settings.storage_deadline_seconds, resolved)
        if not self._shares.take(write):
            raise StorageUnavailable("Nothing was stored: too much is waiting already. Repeat the same request later.")
        self._open.append(write)
        self._handed_in.put(write)

    def _start(self) -> None:
        with self._starting:
            if not self._is_running:
                # One by one: if the second cannot be started, the next attempt must not start the first one again.
                while self._unstarted:
                    name, target = self._unstarted[-1]
                    try:
                        threading.Thread(target=target, name=name, daemon=True).start()
                    except RuntimeError as error:  # a machine out of threads
                        raise StorageUnavailable from error
                    self._unstarted.pop()
                # Not atexit, which a server's forked worker never comes to.
                Finalize(None, self._every_tick, exitpriority=0)
                self._is_running = True

    def _run(self) -> None:
        connection = self._database.dedicated_connection()
        while True:
            try:
                group = self._gather()
                error = self._write(connection, group)
                if error is not None:
                    self._isolate(connection, group, error)
                if len(group) > 1:
                    time.sleep(min(len(group) * _LINGER_SECONDS_PER_EVENT, _LINGER_SECONDS_MAX))
            except Exception:  # noqa: BLE001 - whatever it is, the thread goes on
                # No other thread would replace it. The group's attempts are resolved at their deadlines.
                _log.exception("committer_crashed")

    def _gather(self) -> list[PendingWrite]:
        """Wait for an attempt, then take waiting attempts, workspace by workspace, up to the size of a group.

        Of two attempts with one Idempotency-Key the second goes into the next group: the first one's record answers it.
        """
        again, self._again = self._again, deque()
        if not again and not self._waiting:
            self._waiting.put(self._handed_in.get())
        # What came in since the last group.
        with suppress(queue.Empty):
            while True:
                self._waiting.put(self._handed_in.get_nowait())
        group: list[PendingWrite] = []
        left: list[PendingWrite] = []
        claims: set[object] = set()
        payload_bytes = 0
        now = time.monotonic()
        while len(group) < GROUP_EVENTS_MAX and payload_bytes < GROUP_BYTES_MAX and (again or self._waiting):
            write = again.popleft() if again else self._waiting.take()
            if write.deadline <= now:
                write.expire()
            claim = write.idempotency_claim
            if claim in claims:
                self._again.append(write)
                continue
            if write.is_queued:
                write.is_queued = False
                left.append(write)
            if write.is_resolved or self._contention.takes(write):
                continue
            if claim is not None:
                claims.add(claim)
            payload_bytes += write.payload_bytes
            group.append(write)
        self._again += again
        self._shares.give_back(left)
        return group

    def _write(
        self,
        connection: DedicatedConnection,
        group: list[PendingWrite],
        lock_wait_seconds: float = _GROUP_LOCK_WAIT_SECONDS,
    ) -> psycopg.Error | None:
        """Write a group and pass on what is undecided; the error if PostgreSQL refuses it for one of its attempts.

        No group waits for a workspace that is being changed: its attempts return as held, and the others are stored.
        """
        if not group:
            return None
        began = time.monotonic()
        try:
            undecided = write_group(connection, group, self._settings, lock_wait_seconds=lock_wait_seconds, waits=False)
        except OutcomeUnknown:
            # Repeated: the statement recognises each attempt's uid in what it wrote.
            self._again += group
            time.sleep(PAUSE_SECONDS)
        except StorageUnavailable as error:
            self._again += refuse_unsent(group, error)
            time.sleep(PAUSE_SECONDS)
        except psycopg.Error as error:
            return error
        else:
            self._again += undecided.raced
            if undecided.held:
                self._contention.add(undecided.held)
        finally:
            came = group[0].deadline - self._settings.storage_deadline_seconds
            _GROUPS.add((len(group), time.monotonic() - began, began - came))
        return None

    def _isolate(self, connection: DedicatedConnection, group: list[PendingWrite], error: psycopg.Error) -> None:
        """Store the other attempts of a group that PostgreSQL refused for one of them, in bounded time.

        Halving finds the workspace; the contention queue finds the attempt. Workspaces that are not cleared in time go
        to that queue too.
        """
        until = time.monotonic() + _SEARCH_SECONDS
        parts = [(_by_workspace(group), error)]
        while parts:
            part, error = parts.pop()
            if failure_of(error) is Failure.LOCKED and waits_for_table(connection):
                # A locked table blocks every workspace: wait for it again in the next group.
                self._again += _all_of(part)
            elif len(part) == 1 or time.monotonic() >= until:
                for workspace_id, writes in part.items():
                    if len(part) == 1:
                        self._contention.mark_contended(workspace_id)
                    self._contention.add(writes)
            else:
                for half in _halves(part):
                    refused = self._write(connection, _all_of(half), _SEARCH_LOCK_WAIT_SECONDS)
                    if refused is not None:
                        parts.append((half, refused))

    def _keep_time(self) -> None:
        """Resolve attempts that have passed their deadline, and forget resolved ones."""
        while True:
            time.sleep(_TICK_SECONDS)
            now = time.monotonic()
            for _ in range(len(self._open)):
                write = self._open.popleft()
                if write.deadline <= now:
                    write.expire()
                if not write.is_resolved:
                    self._open.append(write)
            metrics.QUEUE_EVENTS.set(len(self._open))

    def _tick(self) -> None:
        # Not on the time keeper's thread: a tick writes log lines, and blocks while standard error is not read.
        while True:
            time.sleep(_TICK_SECONDS)
            try:
                self._every_tick()
            except Exception:  # noqa: BLE001 - whatever it is, there are others to come
                _log.exception("tick_failed")


def _by_workspace(group: Iterable[PendingWrite]) -> dict[int, list[PendingWrite]]:
    found: dict[int, list[PendingWrite]] = {}
    for write in group:
        found.setdefault(write.identity.workspace_id, []).append(write)
    return found


def _all_of(part: dict[int, list[PendingWrite]]) -> list[PendingWrite]:
    return list(chain.from_iterable(part.values()))


def _halves(part: dict[int, list[PendingWrite]]) -> Iterator[dict[int, list[PendingWrite]]]:
    middle = len(part) // 2
    yield dict(islice(part.items(), middle))
    yield dict(islice(part.items(), middle, None))
