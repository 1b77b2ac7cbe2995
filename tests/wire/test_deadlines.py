"""Waits that end: those that have taken too long, and no others."""

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any

import pytest

from app.granian.deadlines import Deadlines

_SHORT_SECONDS = 0.01
_LONG_SECONDS = 60.0
_BUSY_SECONDS_MAX = 30.0


async def _bounded(deadlines: Deadlines, wait: Awaitable[Any]) -> Any:
    with deadlines.bounded():
        return await wait


def _run(scenario: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(scenario, _BUSY_SECONDS_MAX))


def _never() -> "asyncio.Future[Any]":
    return asyncio.get_running_loop().create_future()


def test_a_wait_that_takes_too_long_ends_with_a_timeout_and_its_task_goes_on() -> None:
    async def scenario() -> str:
        with pytest.raises(TimeoutError):
            await _bounded(Deadlines(_SHORT_SECONDS), _never())
        return await asyncio.sleep(0, "goes on")

    assert _run(scenario()) == "goes on"


def test_each_ends_at_its_own_time_by_one_timer() -> None:
    async def scenario() -> list[Any]:
        deadlines = Deadlines(_SHORT_SECONDS)
        first = [asyncio.create_task(_bounded(deadlines, _never())) for _ in range(3)]
        ended = await asyncio.gather(*first, return_exceptions=True)
        # The timer has come to its end with them, and begins again with the next one.
        return [*ended, *await asyncio.gather(_bounded(deadlines, _never()), return_exceptions=True)]

    assert [type(each) for each in _run(scenario())] == [TimeoutError] * 4


def test_one_that_begins_later_ends_later() -> None:
    async def scenario() -> list[str]:
        deadlines, ended = Deadlines(_SHORT_SECONDS), []

        async def wait(name: str) -> None:
            with pytest.raises(TimeoutError):
                await _bounded(deadlines, _never())
            ended.append(name)

        first = asyncio.create_task(wait("first"))
        await asyncio.sleep(_SHORT_SECONDS / 2)
        await asyncio.gather(first, wait("second"))
        return ended

    assert _run(scenario()) == ["first", "second"]


def test_what_comes_in_time_is_not_touched_and_leaves_nothing_to_end() -> None:
    async def scenario() -> str:
        deadlines = Deadlines(_SHORT_SECONDS)
        found: str = await _bounded(deadlines, asyncio.sleep(0, "in time"))
        # Past the time of the first one: this task is not ended for it.
        with pytest.raises(TimeoutError):
            await _bounded(deadlines, _never())
        await asyncio.sleep(_SHORT_SECONDS)
        return found

    assert _run(scenario()) == "in time"


def test_what_goes_wrong_in_it_is_told_as_it_is() -> None:
    async def fail() -> None:
        raise ValueError

    async def scenario() -> None:
        await _bounded(Deadlines(_LONG_SECONDS), fail())

    with pytest.raises(ValueError):  # noqa: PT011 - the very one
        _run(scenario())


def test_a_task_that_somebody_else_ends_is_cancelled_and_not_late() -> None:
    async def scenario() -> bool:
        task = asyncio.create_task(_bounded(Deadlines(_LONG_SECONDS), _never()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert _run(scenario())
