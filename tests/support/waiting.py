"""Waits for a condition instead of for a time."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def wait_until(condition: Callable[[], Value], timeout_seconds: float = 180.0, *, pause_seconds: float = 0.02) -> Value:
    """The first truthy value of `condition`; fails the test if there is none in time."""
    deadline = time.monotonic() + timeout_seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_seconds} s: {condition}")
        time.sleep(pause_seconds)
    return value


def wait_for_preloads() -> None:
    """Until no thread of this process fills a cache of credentials."""
    for thread in threading.enumerate():
        if thread.name == "preload":
            thread.join(60.0)
