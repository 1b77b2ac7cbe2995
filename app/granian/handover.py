"""Brings results of other threads to the event loop, with one wake-up for many of them."""

import asyncio
from collections import deque
from typing import Any


class Handover:
    """Sets futures of one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._found: deque[tuple[asyncio.Future[Any], Any]] = deque()
        self._is_called = False

    def put(self, future: "asyncio.Future[Any]", value: object) -> None:
        """From any thread."""
        self._found.append((future, value))
        if not self._is_called:
            self._is_called = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # First, so that a put() from now on calls again.
        self._is_called = False
        while self._found:
            future, value = self._found.popleft()
            if not future.done():
                future.set_result(value)
