"""Waits that end: those that have taken too long, and no others. By a clock that the test sets."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from app.granian.deadlines import Deadlines

_SECONDS = 10.0
_BUSY_SECONDS_MAX = 30.0

PassTime = Callable[[float], Awaitable[None]]


def _run(scenario: Callable[[Deadlines, PassTime], Coroutine[Any, Any, Any]]) -> Any:
    """What `scenario` finds; it is given deadlines of ten seconds, and what lets the loop's seconds pass."""

    async def run() -> Any:
        loop = asyncio.get_running_loop()
        now, ahead = loop.time, 0.0
        loop.time = lambda: now() + ahead  # type: ignore[method-assign]

        async def pass_time(seconds: float) -> None:
            nonlocal ahead
            await asyncio.sleep(0)
            ahead += seconds
            for _ in range(5):
                await asyncio.sleep(0)

        return await asyncio.wait_for(scenario(Deadlines(_SECONDS), pass_time), _BUSY_SECONDS_MAX + 10 * _SECONDS)

    return asyncio.run(run())


async def _bounded(deadlines: Deadlines, wait: Awaitable[Any]) -> Any:
    return await deadlines.bounded(wait)


def _begin(deadlines: Deadlines) -> "asyncio.Task[Any]":
    """A wait for what never comes."""
    return asyncio.create_task(_bounded(deadlines, asyncio.get_running_loop().create_future()))


def test_a_wait_that_takes_too_long_ends_with_a_timeout_and_its_task_goes_on() -> None:
    async def scenario(deadlines: Deadlines, pass_time: PassTime) -> str:
        async def work() -> str:
            with pytest.raises(TimeoutError):
                await _bounded(deadlines, asyncio.get_running_loop().create_future())
            return await asyncio.sleep(0, "goes on")

        task = asyncio.create_task(work())
        await pass_time(_SECONDS)
        return await task

    assert _run(scenario) == "goes on"


def test_each_ends_at_its_own_time() -> None:
    async def scenario(deadlines: Deadlines, pass_time: PassTime) -> list[list[bool]]:
        waits, seen = [], []
        for _ in range(3):
            waits += [_begin(deadlines), _begin(deadlines)]
            await pass_time(_SECONDS * 0.4)
        for _ in range(3):
            seen.append([wait.done() for wait in waits])
            await pass_time(_SECONDS * 0.4)
        assert {type(wait.exception()) for wait in waits} == {TimeoutError}
        return seen

    first, second, third = [True] * 2 + [False] * 4, [True] * 4 + [False] * 2, [True] * 6
    assert _run(scenario) == [first, second, third]


def test_one_begins_anew_when_all_before_it_have_ended() -> None:
    async def scenario(deadlines: Deadlines, pass_time: PassTime) -> list[type]:
        found = []
        for _ in range(2):
            wait = _begin(deadlines)
            await pass_time(_SECONDS)
            found.append(type(wait.exception()))
        return found

    assert _run(scenario) == [TimeoutError] * 2


def test_what_came_in_time_is_ended_no_more() -> None:
    async def scenario(deadlines: Deadlines, pass_time: PassTime) -> str:
        async def work() -> str:
            found: str = await _bounded(deadlines, asyncio.sleep(0, "in time"))
            await over.wait()
            return found

        over = asyncio.Event()
        task = asyncio.create_task(work())
        await pass_time(2 * _SECONDS)
        over.set()
        return await task

    assert _run(scenario) == "in time"


def test_what_goes_wrong_in_it_is_raised_as_it_is_also_when_it_is_late() -> None:
    async def scenario(deadlines: Deadlines, pass_time: PassTime) -> list[BaseException | None]:
        async def fail(wait: "asyncio.Future[None]") -> None:
            with suppress(asyncio.CancelledError):
                await wait
            raise ValueError

        loop = asyncio.get_running_loop()
        in_time = loop.create_future()
        in_time.set_result(None)
        waits = [asyncio.create_task(_bounded(deadlines, fail(each))) for each in (in_time, loop.create_future())]
        await pass_time(_SECONDS)
        return [wait.exception() for wait in waits]

    assert [type(error) for error in _run(scenario)] == [ValueError, ValueError]


def test_a_task_that_another_caller_ends_is_cancelled_and_not_late() -> None:
    async def scenario(deadlines: Deadlines, pass_time: PassTime) -> list[bool]:
        before, at_once = _begin(deadlines), _begin(deadlines)
        await pass_time(0)
        before.cancel()
        await pass_time(0)
        # In one turn of the loop with the deadline, which comes second.
        at_once.cancel()
        await pass_time(_SECONDS)
        return [before.cancelled(), at_once.cancelled()]

    assert _run(scenario) == [True, True]
