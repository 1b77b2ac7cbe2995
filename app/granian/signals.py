"""Ends a granian worker that is stopped while it loads the application; does nothing under other servers.

granian forks its workers with the parent's handlers in place, which set a flag for a loop that only the parent has. So
until a worker has loaded the application and set handlers of its own, a signal is lost in it: it would serve on, and be
killed with requests under way when its kill timeout is over.
"""

import multiprocessing
import signal
from typing import Final

_STOPS: Final = (signal.SIGTERM, signal.SIGINT)


def end_at_once_while_starting() -> None:
    """Restore the default handlers, since no request has been accepted yet. Call it before the other imports."""
    if multiprocessing.parent_process() is None:
        return
    for number in _STOPS:
        if getattr(signal.getsignal(number), "__module__", "").startswith("granian."):
            signal.signal(number, signal.SIG_DFL)
