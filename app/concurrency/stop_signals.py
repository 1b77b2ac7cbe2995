"""Lets no signal that stops a granian worker go unheard; does nothing under other servers.

A worker that does not hear it serves on, and is killed with requests under way when its kill timeout is over.
"""

import multiprocessing
import signal
from typing import Final

_STOPS: Final = (signal.SIGTERM, signal.SIGINT)


def end_at_once_while_starting() -> None:
    """To be called first of all in the main thread of a worker.

    granian forks its workers with its own handlers in place, which note the signal for a loop that only the parent has:
    until a worker has loaded the application and set handlers of its own, a signal would be lost in it. It has
    admitted nothing by then, so it may end at once.
    """
    if multiprocessing.parent_process() is None:
        return
    for number in _STOPS:
        if getattr(signal.getsignal(number), "__module__", "").startswith("granian."):
            signal.signal(number, signal.SIG_DFL)
