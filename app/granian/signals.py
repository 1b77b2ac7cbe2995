"""Ends a granian worker that is stopped while it loads the application, and hears of a later stop; nothing elsewhere.

granian forks its workers with the parent's handlers in place, which set a flag for a loop that only the parent has. So
until a worker has loaded the application and set handlers of its own, a signal is lost in it: it would serve on, and be
killed with requests under way when its kill timeout is over.
"""

import multiprocessing
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final

_STOPS: Final = (signal.SIGTERM, signal.SIGINT)


def end_at_once_while_starting() -> None:
    """Restore the default handlers, since no request has been accepted yet. Call it before the other imports."""
    if multiprocessing.parent_process() is None:
        return
    for number in _STOPS:
        if getattr(signal.getsignal(number), "__module__", "").startswith("granian."):
            signal.signal(number, signal.SIG_DFL)


def on_stop(note: Callable[[], object]) -> Callable[[], None]:
    """Call `note`, which a signal's handler may do, when the worker is to stop; returns what undoes it.

    granian waits for the requests under way and says nothing to the application until they have ended. Its handlers are
    the event loop's, which Python calls in vain and the loop then hears of by its own descriptor: so ours goes before.
    """
    before = {number: signal.getsignal(number) for number in _STOPS}

    def undo() -> None:
        for number, handler in before.items():
            if signal.getsignal(number) is ours.get(number):
                _handle(number, handler)

    ours = {number: _noting(note, handler) for number, handler in before.items() if callable(handler)}
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    for number, handler in ours.items():
        _handle(number, handler)
    return undo


_Handler = Callable[[int, FrameType | None], object]


def _noting(note: Callable[[], object], handler: _Handler) -> _Handler:
    def handle(number: int, frame: FrameType | None) -> None:
        note()
        handler(number, frame)

    return handle


def _handle(number: int, handler: "_Handler | int | None") -> None:
    signal.signal(number, handler)
    # As the loops do: else system calls that the signal interrupts fail in other libraries.
    signal.siginterrupt(number, False)
