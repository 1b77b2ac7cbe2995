"""Shares the threads of the application out: workspaces take turns at them, and none holds all.

What holds a thread waits: for PostgreSQL, for a commit, for its turn among batches. Given to a pool in the order in
which they come, a few hundred such requests of one workspace would keep those of all others waiting for seconds.

Within an owner its members take turns in the same way. So what one owner can have any number of, such as tokens, is
fair among itself, and all of it together has the turns of one.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class SharedThreads:
    """A pool for one event loop; all but what runs on its threads is called on the loop."""

    def __init__(self, number: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(number, name)
        self._free = number
        self._held: Counter[Hashable] = Counter()
        self._waiting: OrderedDict[Hashable, OrderedDict[Hashable, deque[asyncio.Future[None]]]] = OrderedDict()
        """By owner and member; in both, the next turn is the first one's."""

    def shutdown(self) -> None:
        self._pool.shutdown(wait=False)

    async def run(self, owner: Hashable, step: Callable[[], Result], member: Hashable = None) -> Result:
        """`step` on a thread, as soon as one is free for `owner`, and there for `member`."""
        await self._take(owner, member)
        try:
            return await asyncio.wrap_future(self._submit(step))
        finally:
            self._give_back(owner)

    def _submit(self, step: Callable[[], Result]) -> "Future[Result]":
        given: Future[Result] = Future()

        def work() -> None:
            if not given.set_running_or_notify_cancel():
                return
            try:
                given.set_result(step())
            except BaseException as error:  # noqa: BLE001 - the caller gets it
                given.set_exception(error)

        try:
            self._pool.submit(work)
        except RuntimeError:
            # The machine has no thread left. The pool has queued the work all the same, and would do it later, when
            # its caller has been told that it failed.
            if given.cancel():
                raise
        return given

    async def _take(self, owner: Hashable, member: Hashable) -> None:
        # What waits may hold no thread now: _give_back() has made sure of that. So this one overtakes no other.
        if self._may_hold(owner):
            self._hold(owner)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, OrderedDict()).setdefault(member, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it came in that very moment
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
        """As many as are still free, as of what waits for the committer (app/ingest/shares.py): half for one alone."""
        return self._held[owner] < self._free

    def _hold(self, owner: Hashable) -> None:
        self._free -= 1
        self._held[owner] += 1


def _next_turn(members: OrderedDict[Hashable, deque[asyncio.Future[None]]]) -> asyncio.Future[None] | None:
    """Take the turn of the first member that still waits, and put that member behind the others."""
    while members:
        member, turns = next(iter(members.items()))
        turn = turns.popleft()
        if turns:
            members.move_to_end(member)
        else:
            del members[member]
        if not turn.done():  # else its request was given up
            return turn
    return None
