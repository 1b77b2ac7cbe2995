"""Lets most of a web server's threads rest until others block.

A thread of a server is blocked while a body stalls or a view waits for the database, so a process needs many. But of
many that run, each takes the interpreter from the others: with 128 awake a process stores a fifth less than with 4
(docs/performance.md). So a thread that comes when enough are there rests after its request, inside the server's call,
which therefore counts it as busy; it comes back when another one blocks.
"""

import threading
import time
from collections import deque
from typing import Final

_RUNNING: Final = 4
_LOOK_SECONDS: Final = 0.05


class ThreadReserve:
    """The threads of one process. A request stands for the thread that handles it."""

    def __init__(self) -> None:
        # Requests whose threads stay awake when they are done. A thread is sent to rest only while enough of these run,
        # so enough threads are awake or come back for more, whatever happens next: counting those that will rest too,
        # each could be sent to rest because of others that are, until nobody is left.
        self._running: set[object] = set()
        self._running_max = _RUNNING
        self._resting: deque[threading.Lock] = deque()
        self._has_rested = threading.Event()
        self._mutex = threading.Lock()
        self._watch: threading.Thread | None = None

    @property
    def resting(self) -> int:
        """How many threads rest."""
        return len(self._resting)

    def begin(self, request: object) -> bool:
        """Whether enough threads ran already, so that this one should rest when its request is done."""
        if len(self._running) >= self._running_max:
            return True
        self._running.add(request)
        return False

    def end(self, request: object) -> None:
        """It is done, whether or not its thread rests now."""
        self._running.discard(request)

    def replace(self) -> None:
        """Call one thread back, if any rests, in place of one that may now block."""
        try:
            self._resting.pop().release()
        except IndexError:
            return

    def rest(self) -> None:
        """Block until this thread is called back."""
        call = threading.Lock()
        call.acquire()
        self._resting.append(call)
        if self._watch is None:
            self._begin_to_watch()
        self._has_rested.set()
        call.acquire()

    def look(self, before: set[object]) -> set[object]:
        """Replace the threads that are at the same request as at the last look, and return who runs now."""
        now = set(self._running)
        blocked = len(now & before)
        for _ in range(_RUNNING + blocked - self._running_max):
            self.replace()
        self._running_max = _RUNNING + blocked
        return now

    def _begin_to_watch(self) -> None:
        with self._mutex:
            if self._watch is None:
                self._watch = threading.Thread(target=self._keep_watch, name="thread-reserve", daemon=True)
                self._watch.start()

    def _keep_watch(self) -> None:
        running: set[object] = set()
        while True:
            self._has_rested.wait()
            # In this order: whoever lies down after the look sets it again.
            self._has_rested.clear()
            if self._resting:
                self._has_rested.set()
            time.sleep(_LOOK_SECONDS)
            running = self.look(running)
