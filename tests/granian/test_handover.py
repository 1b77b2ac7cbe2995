"""Every result reaches the event loop, at whatever moment another thread has it, and many with one wake-up."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import Any, cast

from app.granian import handover
from app.granian.handover import Handover

_LINES_MAX = 100


class _Loop:
    """Is given what to call, and calls it when the test says so."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []
        self.results: list[Future[str]] = []
        self.handover = Handover(cast(asyncio.AbstractEventLoop, self))

    def call_soon_threadsafe(self, step: Callable[[], None]) -> None:
        self.due.append(step)

    def run(self) -> None:
        while self.due:
            self.due.pop(0)()

    def put(self) -> "Future[str]":
        """As another thread does."""
        result: Future[str] = Future()
        self.results.append(result)
        self.handover.put(cast(Any, result), "found")
        return result


@contextmanager
def _interrupted(line: int, other: Callable[[], object]) -> Iterator[list[int]]:
    """A block in which `other` runs just before the given line of handover.py that is executed.

    That is where a thread may be interrupted, so the lines of `other` stand for those of a thread beside it. Yields a
    list that is empty if so many lines were not executed.
    """
    interrupted: list[int] = []
    seen = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal seen
        if frame.f_code.co_filename != handover.__file__:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                interrupted.append(frame.f_lineno)
                other()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield interrupted
    finally:
        sys.settrace(before)


def test_a_result_that_comes_while_others_are_delivered_arrives() -> None:
    lines = set()
    for line in range(1, _LINES_MAX):
        loop = _Loop()
        loop.put()
        with _interrupted(line, loop.put) as interrupted:
            loop.run()
        assert all(result.done() for result in loop.results), interrupted
        if not interrupted:
            break
        lines.update(interrupted)

    assert len(lines) > 2


def test_a_result_arrives_though_the_loop_delivers_while_it_is_put_and_so_does_the_next_one() -> None:
    lines = set()
    for line in range(1, _LINES_MAX):
        loop = _Loop()
        with _interrupted(line, loop.run) as interrupted:
            result = loop.put()
        loop.run()
        assert result.done(), interrupted
        following = loop.put()
        loop.run()
        assert following.done(), interrupted
        if not interrupted:
            break
        lines.update(interrupted)

    assert len(lines) > 2


def test_many_results_wake_the_loop_once() -> None:
    loop = _Loop()
    results = [loop.put() for _ in range(3)]

    assert len(loop.due) == 1
    loop.run()
    assert [result.result(0) for result in results] == ["found"] * 3


def test_a_request_that_is_gone_keeps_no_other_one_from_its_result() -> None:
    loop = _Loop()
    gone, other = loop.put(), loop.put()
    gone.cancel()

    loop.run()

    assert other.result(0) == "found"
