"""A daemon thread that repeats one step: started by its first user, and again by the first user after a fork."""

import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from app.concurrency.fork import reset_after_fork

_log = structlog.get_logger()

_PAUSE_AFTER_FAILURE_SECONDS: Final = 5.0
# A step over hundreds of rate limits computes for milliseconds; it may have a fiftieth of the interpreter.
_PAUSE_PER_STEP: Final = 49


class Background:
    """Repeats `step` (a bound method) until the step's owner has been collected."""

    def __init__(self, step: Callable[[], None], *, name: str, pause_seconds: float, pause_seconds_min: float) -> None:
        self._step = weakref.WeakMethod(step)
        self._name = name
        self._pause_seconds = pause_seconds
        self._pause_seconds_min = pause_seconds_min
        self._reset()
        reset_after_fork(self, Background._reset)

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._hurry = threading.Event()
        self.is_running = False

    def start(self) -> bool:
        """Start the thread unless it runs; returns whether this call has started it.

        False also if the machine has no thread left: then the next call tries again.
        """
        with self._mutex:
            if self.is_running:
                return False
            arguments = (self._step, self._hurry, self._pause_seconds, self._pause_seconds_min)
            with suppress(RuntimeError):
                threading.Thread(target=_repeat, args=arguments, name=self._name, daemon=True).start()
                self.is_running = True
            return self.is_running

    def hurry(self) -> None:
        """Cut the current pause short, down to its minimum."""
        if not self._hurry.is_set():
            self._hurry.set()


def _repeat(
    step: "weakref.WeakMethod[Callable[[], None]]", hurry: threading.Event, pause_seconds: float, least_seconds: float
) -> None:
    before = 0.0
    while (method := step()) is not None:
        began = time.thread_time()
        try:
            method()
        except Exception:  # noqa: BLE001 - whatever it is, the thread goes on: no caller would start it again
            _log.exception("background_step_failed", thread=threading.current_thread().name)
            time.sleep(_PAUSE_AFTER_FAILURE_SECONDS)
        del method
        computed = time.thread_time() - began
        # Of the last two: a step that meets the garbage collector may compute for half a second, once.
        least = max(least_seconds, min(computed, before) * _PAUSE_PER_STEP)
        before = computed
        time.sleep(least)
        hurry.wait(max(0.0, pause_seconds - least))
        hurry.clear()
