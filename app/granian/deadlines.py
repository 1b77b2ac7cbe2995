"""Ends what takes too long on the event loop, by one timer for all of it.

asyncio.timeout() makes a timer for each, and costs four times as much: for each event, that is felt.
"""

import asyncio
from typing import Final, Self


class Deadlines:
    """For waits that may all take equally long; on one event loop."""

    def __init__(self, seconds: float) -> None:
        self.seconds: Final = seconds
        self._waits: dict[_Wait, None] = {}
        """Those under way, the oldest first."""
        self._timer: asyncio.TimerHandle | None = None

    def bounded(self) -> "_Wait":
        """A block of the current task. Raises TimeoutError when it has taken too long."""
        return _Wait(self)

    def begin(self, wait: "_Wait", loop: asyncio.AbstractEventLoop) -> None:
        """Watch it, from now on."""
        self._waits[wait] = None
        if self._timer is None:
            self._timer = loop.call_at(wait.until, self._end_overdue, loop)

    def end(self, wait: "_Wait") -> None:
        """Watch it no more."""
        self._waits.pop(wait, None)

    def _end_overdue(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for wait in list(self._waits):
            if wait.until > now:
                self._timer = loop.call_at(wait.until, self._end_overdue, loop)
                break
            del self._waits[wait]
            wait.cancel()


class _Wait:
    """A class, because it costs half of what @contextmanager does."""

    __slots__ = ("_deadlines", "_is_overdue", "_task", "until")

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._is_overdue = False

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("Only what a task waits for can be ended.")
        self._task = task
        self.until = loop.time() + self._deadlines.seconds
        """By the loop's clock."""
        self._deadlines.begin(self, loop)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._deadlines.end(self)
        # As asyncio.timeout() has it: another one may have cancelled the task too.
        if self._is_overdue and self._task.uncancel() <= 0 and kind is asyncio.CancelledError:
            raise TimeoutError

    def cancel(self) -> None:
        self._is_overdue = True
        self._task.cancel()
