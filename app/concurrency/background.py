"""A thread that repeats one step while somebody needs it: started at the first need, and again after a fork."""

import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress

import structlog

_log = structlog.get_logger()

_PAUSE_AFTER_FAILURE_SECONDS = 5.0
_PAUSE_PER_STEP = 49


class Background:
    """Repeats `step` (a bound method) on a daemon thread; ends when the step's owner is gone."""

    def __init__(self, step: Callable[[], None], *, name: str, pause_seconds: float, pause_seconds_min: float) -> None:
        self._step = weakref.WeakMethod(step)
        self._name = name
        self._pause_seconds = pause_seconds
        self._pause_seconds_min = pause_seconds_min
        self.begin_again()
        in_every_child(self.begin_again)

    def begin_again(self) -> None:
        """As new: nothing runs yet."""
        self._mutex = threading.Lock()
        self._hurry = threading.Event()
        self.is_running = False

    def start(self) -> bool:
        """Make sure that the thread runs, if the machine has room for one; whether it was begun just now."""
        with self._mutex:
            if self.is_running:
                return False
            arguments = (self._step, self._hurry, self._pause_seconds, self._pause_seconds_min)
            # The machine may have no thread left: the next one who needs it tries again.
            with suppress(RuntimeError):
                threading.Thread(target=_repeat, args=arguments, name=self._name, daemon=True).start()
                self.is_running = True
            return self.is_running

    def hurry(self) -> None:
        """Do not wait for the whole pause this time."""
        if not self._hurry.is_set():
            self._hurry.set()


def in_every_child(method: Callable[[], None]) -> None:
    """Call `method` (a bound one) in a forked child, which has its parent's variables and none of its threads."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        if (found := reference()) is not None:
            found()

    os.register_at_fork(after_in_child=call)


def _repeat(
    step: "weakref.WeakMethod[Callable[[], None]]", hurry: threading.Event, pause_seconds: float, least_seconds: float
) -> None:
    rest = threading.Event()
    while (method := step()) is not None:
        began = time.thread_time()
        try:
            method()
        except Exception:  # noqa: BLE001 - whatever it is, the thread goes on: nobody would start it again
            _log.exception("background_step_failed", thread=threading.current_thread().name)
            rest.wait(_PAUSE_AFTER_FAILURE_SECONDS)
        del method
        # A step over hundreds of rate limits takes milliseconds of the interpreter; it gets a fiftieth of it at most.
        least = max(least_seconds, (time.thread_time() - began) * _PAUSE_PER_STEP)
        rest.wait(least)
        hurry.wait(max(0.0, pause_seconds - least))
        hurry.clear()
