"""Queues for attempts that cannot be written at once, so that no group waits for them.

Their workspace is being changed, another transaction holds their Idempotency-Key or event id, or PostgreSQL refused a
group for one of them. Each workspace has its own queue. One thread at a time works on it, in short rounds
(contention_round.py): a blocked workspace takes its share of the space and one thread, and no other workspace's time.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import structlog

from app.config import Settings
from app.database.engine import Database
from app.errors import StorageUnavailable
from app.ingest.contention_round import Entry, Round
from app.ingest.pending_write import PendingWrite
from app.ingest.shares import Shares

_log = structlog.get_logger()

_THREADS: Final = 4
# All events of a contended workspace come here, so the queue must keep up with its usual rate.
_EVENTS_MAX: Final = 1024
_BYTES_MAX: Final = 16 * 1024 * 1024
# For how long all events of a workspace come here after it blocked a group, so that it does not block the next one.
_CONTENDED_SECONDS: Final = 2.0
_REST_SECONDS: Final = 0.05
_BUSY: Final = "Nothing was stored: too many requests of this workspace wait already. Repeat the same request later."


class _WorkspaceQueue:
    """What waits of one workspace."""

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque()
        self.is_worked_on = False
        self.rests_until = 0.0


class ContentionQueue:
    """The queues of one process and the threads that work on them; starts these at the first need."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._shares = Shares(_EVENTS_MAX, _BYTES_MAX)
        self._changed = threading.Condition()
        self._queues: OrderedDict[int, _WorkspaceQueue] = OrderedDict()
        """By workspace; the next one's round is the first one's."""
        self._contended_until: dict[int, float] = {}
        self._threads = 0

    def takes(self, write: PendingWrite) -> bool:
        """Whether the attempt's workspace is contended; then it is queued here."""
        if not self._contended_until:
            return False
        workspace_id = write.identity.workspace_id
        if self._contended_until.get(workspace_id, 0) <= time.monotonic():
            return False
        self.add([write])
        return True

    def mark_contended(self, workspace_id: int) -> None:
        """Queue all events of this workspace here for a while."""
        now = time.monotonic()
        # A new dictionary without expired entries: other threads may be reading the old one.
        kept = {each: until for each, until in self._contended_until.items() if until > now}
        self._contended_until = kept | {workspace_id: now + _CONTENDED_SECONDS}

    def add(self, writes: Iterable[PendingWrite]) -> None:
        """Queue attempts; those beyond their workspace's share are refused."""
        with self._changed:
            refused = [write for write in writes if not self._add(write)]
            if self._threads < _THREADS:
                # The machine may have no thread left: those that run go on, and the next call tries again.
                with suppress(RuntimeError):
                    threading.Thread(target=self._work, name="contention", daemon=True).start()
                    self._threads += 1
            self._changed.notify()
        for write in refused:
            write.resolve(StorageUnavailable(_BUSY))

    def _add(self, write: PendingWrite) -> bool:
        workspace_id = write.identity.workspace_id
        if not self._shares.take(write):
            return False
        waiting = self._queues.get(workspace_id)
        if waiting is None:
            waiting = self._queues[workspace_id] = _WorkspaceQueue()
        waiting.entries.append(Entry(write, self._settings.idempotency_wait_seconds))
        return True

    def _work(self) -> None:
        connection = self._database.dedicated_connection()
        while True:
            workspace_id, entries = self._begin_round()
            this = Round(entries, connection, self._settings)
            try:
                this.run()
            except Exception:  # noqa: BLE001 - whatever it is, the thread goes on
                # Its attempts are resolved at their deadlines.
                _log.exception("contention_crashed")
                this.needs_rest = True
            if this.is_contended:
                self.mark_contended(workspace_id)
            self._end_round(workspace_id, needs_rest=this.needs_rest)

    def _begin_round(self) -> tuple[int, list[Entry]]:
        """Wait for the next workspace, and return what waits of it."""
        with self._changed:
            while True:
                now = time.monotonic()
                waiting = [(each, of_it) for each, of_it in self._queues.items() if not of_it.is_worked_on]
                for workspace_id, of_it in waiting:
                    if of_it.rests_until <= now:
                        of_it.is_worked_on = True
                        self._queues.move_to_end(workspace_id)
                        return workspace_id, list(of_it.entries)
                self._changed.wait(min((of_it.rests_until - now for _, of_it in waiting), default=None))

    def _end_round(self, workspace_id: int, *, needs_rest: bool) -> None:
        with self._changed:
            of_it = self._queues[workspace_id]
            of_it.is_worked_on = False
            of_it.rests_until = time.monotonic() + _REST_SECONDS if needs_rest else 0.0
            for _ in range(len(of_it.entries)):
                entry = of_it.entries.popleft()
                if entry.write.is_resolved:
                    self._shares.give_back([entry.write])
                else:
                    of_it.entries.append(entry)
            if of_it.entries:
                self._changed.notify()
            else:
                del self._queues[workspace_id]
