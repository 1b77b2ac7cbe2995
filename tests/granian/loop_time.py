"""An event loop whose seconds pass when the test says so."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

# By the loop's clock, which a test moves on by less.
_SECONDS_MAX = 200.0

PassTime = Callable[[float], Awaitable[None]]


def run_by_the_test_s_clock(scenario: Callable[[PassTime], Coroutine[Any, Any, Any]]) -> Any:
    """What `scenario` finds; it is given what lets the loop's seconds pass."""

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

        return await asyncio.wait_for(scenario(pass_time), _SECONDS_MAX)

    return asyncio.run(run())
