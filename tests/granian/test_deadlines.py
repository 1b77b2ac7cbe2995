"""Waits that end: those that have taken too long, and no others. By a clock that the test sets."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from app.granian.deadlines import Deadlines
from tests.granian.loop_time import PassTime, run_by_the_test_s_clock

_SECONDS = 10.0


def _run(scenario: Callable[[Deadlines, PassTime], Coroutine[Any, Any, Any]]) -> Any:
    """What `scenario` finds; it is given deadlines of ten seconds, and what lets the loop's seconds pass."""
    return run_by_the_test_s_clock(lambda pass_time: scenario(Deadlines(_SECONDS), pass_time))


async def _bounded(deadlines: Deadlines, wait: Awaitable[Any]) -> Any:
    return await deadlines.bounded(wait)


def _begin(deadlines: Deadlines) -> "asyncio.Task[Any]":
    """A wait for what never comes."""
    return asyncio.create_task(_bounded(deadlines, asyncio.get_running_loop().create_future()))


async def _how_it_ended(wait: "asyncio.Task[Any]") -> type:
    await asyncio.wait([wait])
    return asyncio.CancelledError if wait.cancelled() else type(wait.exception())


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
    async def scenario(deadlines: Deadlines, pass_time: PassTime) -> type:
        wait = _begin(deadlines)
        await pass_time(0)
        wait.cancel()
        return await _how_it_ended(wait)

    assert _run(scenario) is asyncio.CancelledError


@pytest.mark.parametrize("before_the_deadline", [1.0, -1.0], ids=["just before it is late", "just after"])
def test_also_if_it_is_late_in_the_same_turn_of_the_loop(before_the_deadline: float) -> None:
    """The deadline must not take away another caller's cancellation: the task would go on, and be waited for."""

    async def scenario(deadlines: Deadlines, pass_time: PassTime) -> tuple[type, int]:
        wait = _begin(deadlines)
        asyncio.get_running_loop().call_later(_SECONDS - before_the_deadline, wait.cancel)
        # Both timers are due when the loop looks next, and it calls them in the order of their times.
        await pass_time(2 * _SECONDS)
        return await _how_it_ended(wait), wait.cancelling()

    assert _run(scenario) == (asyncio.CancelledError, 1)


def test_a_task_may_be_late_more_than_once() -> None:
    """Each time it takes back its own cancellation: a second one would look like another caller's."""

    async def scenario(deadlines: Deadlines, pass_time: PassTime) -> int:
        async def work() -> int:
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    await _bounded(deadlines, asyncio.get_running_loop().create_future())
            return task.cancelling()

        task = asyncio.create_task(work())
        for _ in range(2):
            await pass_time(_SECONDS)
        return await task

    assert _run(scenario) == 0


def test_what_takes_its_time_to_end_is_ended_once() -> None:
    async def scenario(deadlines: Deadlines, pass_time: PassTime) -> str:
        async def end_slowly() -> str:
            with suppress(asyncio.CancelledError):
                await asyncio.get_running_loop().create_future()
            await has_ended.wait()
            return "ended"

        has_ended = asyncio.Event()
        slow = asyncio.create_task(_bounded(deadlines, end_slowly()))
        await pass_time(_SECONDS * 0.5)
        later = _begin(deadlines)
        await pass_time(_SECONDS * 0.5)
        await pass_time(_SECONDS * 0.5)
        assert await _how_it_ended(later) is TimeoutError
        has_ended.set()
        found: str = await slow
        return found

    assert _run(scenario) == "ended"
