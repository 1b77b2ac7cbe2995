"""Whether this process has been asked to end (SIGTERM): then no request is held back any more."""

import signal
import threading
from typing import Final

_ENDING: Final = threading.Event()


def say_that_it_ends() -> None:
    """For servers whose signals the application can hear; safe in a signal's handler."""
    _ENDING.set()


def is_ending() -> bool:
    """Also where a server keeps its signals to itself: gunicorn's worker has a handler that is its method."""
    worker = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return _ENDING.is_set() or getattr(worker, "alive", True) is False
