"""Lets no signal that stops a granian worker go unheard; does nothing under other servers.

A worker that does not hear it serves on, and is killed with requests under way when its kill timeout is over.
"""

import multiprocessing
import os
import signal
import threading
import time
from typing import Final

_STOPS: Final = (signal.SIGTERM, signal.SIGINT)
# Ignored by default, and sent by nobody but us.
_NUDGE: Final = signal.SIGURG
# A nudge may come too early like any other signal.
_NUDGES_AFTER_SECONDS: Final = (0.0, 0.1, 0.5, 1.0)


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


def hear_while_waiting() -> None:
    """To be called once in the main thread of a worker, which then waits for a lock until it is stopped.

    CPython looks for signals before it begins to wait for a lock. One that comes between the look and the wait (longer
    than it sounds: the lock of the interpreter is handed on there, and its next owner may take the core) is heard when
    something ends the wait, so never. CPython's own C handler tells a file descriptor of every signal; whoever reads it
    here nudges the main thread, which then finds all that has come.
    """
    if multiprocessing.parent_process() is None:
        return
    told, tells = os.pipe()
    os.set_blocking(tells, False)
    signal.signal(_NUDGE, lambda _number, _frame: None)
    signal.set_wakeup_fd(tells, warn_on_full_buffer=False)
    threading.Thread(target=_nudge, args=(told,), name="stop-signals", daemon=True).start()


def _nudge(told: int) -> None:
    main = threading.main_thread().ident
    while numbers := os.read(told, 64):
        # Else each nudge would be followed by others.
        if main is None or set(numbers) == {_NUDGE}:
            continue
        for seconds in _NUDGES_AFTER_SECONDS:
            time.sleep(seconds)
            signal.pthread_kill(main, _NUDGE)
