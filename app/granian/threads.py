"""Shares the application's threads among owners (workspaces): they take turns, and none holds all threads.

A request on a thread waits: for PostgreSQL, for a commit, for a batch slot. In order of arrival, a few hundred such
requests of one workspace would delay those of all others by seconds.

The members of an owner take turns in the same way, so that many tokens of one workspace get the share of one owner.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class SharedThreads:
    """A pool of threads for one event loop, on which all methods are called."""

    def __init__(self, number: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(number, name)
        self._free = number
        self._held: Counter[Hashable] = Counter()
        self._waiting: OrderedDict[Hashable, OrderedDict[Hashable, deque[asyncio.Future[None]]]] = OrderedDict()
        """By owner and member, each in the order of their turns."""

    def shutdown(self) -> None:
        self._pool.shutdown(wait=False)

    async def run(self, owner: Hashable, step: Callable[[], Result], member: Hashable = None) -> Result:
        """The result of `step` on a thread, as soon as one is free for this owner and member."""
        await self._take(owner, member)
        try:
            return await asyncio.wrap_future(self._submit(step))
        finally:
            self._give_back(owner)

    def _submit(self, step: Callable[[], Result]) -> "Future[Result]":
        result: Future[Result] = Future()

        def work() -> None:
            if not result.set_running_or_notify_cancel():
                return
            try:
                result.set_result(step())
            except BaseException as error:  # noqa: BLE001 - the caller gets it
                result.set_exception(error)

        try:
            self._pool.submit(work)
        except RuntimeError:
            # The machine has no thread left. The pool has queued the work all the same, and would do it later, when
            # the caller has answered that it failed.
            if result.cancel():
                raise
        return result

    async def _take(self, owner: Hashable, member: Hashable) -> None:
        # _give_back() has given a thread to every waiter that may hold one, so this request overtakes none.
        if self._may_hold(owner):
            self._hold(owner)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, OrderedDict()).setdefault(member, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the thread was given in the same step of the loop
                self._give_back(owner)
            raise

    def _give_back(self, owner: Hashable) -> None:
        self._free += 1
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
        for other, members in list(self._waiting.items()):
            if self._may_hold(other) and (turn := _next_turn(members)) is not None:
                self._hold(other)
                turn.set_result(None)
                self._waiting.move_to_end(other)
            if not members:
                del self._waiting[other]

    def _may_hold(self, owner: Hashable) -> bool:
        """As many as are still free: half for one owner alone, a third each for two (as in app/ingest/shares.py)."""
        return self._held[owner] < self._free

    def _hold(self, owner: Hashable) -> None:
        self._free -= 1
        self._held[owner] += 1


def _next_turn(members: OrderedDict[Hashable, deque[asyncio.Future[None]]]) -> asyncio.Future[None] | None:
    """The next turn of the first member that still waits; that member goes behind the others."""
    while members:
        member, turns = next(iter(members.items()))
        turn = turns.popleft()
        if turns:
            members.move_to_end(member)
        else:
            del members[member]
        if not turn.done():  # else its request was cancelled
            return turn
    return None
