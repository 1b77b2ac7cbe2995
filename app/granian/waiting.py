"""Holds requests that follow a feed back on the event loop, and answers those together that are due for one feed."""

import asyncio
import contextvars
from collections.abc import Callable, Hashable
from enum import Enum
from functools import partial

from granian.rsgi import HTTPProtocol  # type: ignore[attr-defined]

from app.events.feed.cursors import Place
from app.events.feed.followers import WAIT, Wait
from app.events.feed.middleware import CAN_WAIT, may_wait
from app.events.feed.shared_answers import Answer, SharedAnswers
from app.granian.environ import Environ
from app.granian.handover import Handover
from app.granian.threads import SharedThreads


def follows_feed(environ: Environ) -> bool:
    """Whether it is a request that may wait; it has threads of its own, which no wait holds."""
    return may_wait(environ["PATH_INFO"])


def allow_wait(environ: Environ) -> None:
    """Have the application leave its wait in `environ`, and not wait on its thread."""
    environ[CAN_WAIT] = True


def wait_in(environ: Environ) -> Wait | None:
    """What the application has left there."""
    wait: Wait | None = environ.pop(WAIT, None)
    return wait


class End(Enum):
    """How a wait ends that has no answer of its own."""

    DUE = "due"
    """The application is to answer, again if it has before."""
    NOT_HELD = "not held"
    """Too many wait."""
    GONE = "gone"
    """The client is."""


class _Held:
    """A wait that has begun; the first end of it counts."""

    def __init__(self, wait: Wait, loop: asyncio.AbstractEventLoop) -> None:
        self.wait = wait
        self.over: asyncio.Future[End | Answer] = loop.create_future()
        self.is_being_answered = False
        self._is_client_gone = False
        self._loop = loop
        self._timer = loop.call_later(wait.seconds_left, self.end, End.DUE)

    def end(self, end: End | Answer) -> None:
        if not self.over.done():
            self.over.set_result(end)

    def client_is_gone(self) -> None:
        """It gets an answer only if that is being made already."""
        self._is_client_gone = True
        if not self.is_being_answered:
            self.end(End.GONE)

    def gather(self, seconds: float) -> None:
        """Wait for so long yet."""
        self.stop()
        self._timer = self._loop.call_later(seconds, self.end, End.DUE)

    def wait_on(self, wait: Wait) -> None:
        """As a further wait, for there was nothing for it."""
        self.wait, self.is_being_answered = wait, False
        self.gather(wait.seconds_left)
        if self._is_client_gone:
            self.end(End.GONE)

    def stop(self) -> None:
        """Let it not end by time."""
        self._timer.cancel()


class FeedWaits:
    """The waits of one process, on its event loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, threads: SharedThreads, handover: Handover, answers: SharedAnswers
    ) -> None:
        self._loop = loop
        self._threads = threads
        self._handover = handover
        self._answers = answers
        self._gathering: dict[Hashable, list[_Held]] = {}
        self._answering: set[asyncio.Task[None]] = set()

    async def end_of(self, wait: Wait, protocol: HTTPProtocol) -> End | Answer:
        """Wait; how it ended, or the answer to the request."""
        held = _Held(wait, self._loop)
        if not wait.followers.add(wait, self._when_woken(held), on_thread=False):
            held.stop()
            wait.when_sent()
            return End.NOT_HELD
        gone = self._loop.create_task(_gone(protocol))
        gone.add_done_callback(lambda _: held.client_is_gone())
        try:
            end = await held.over
            if end is End.GONE:
                wait.when_sent()
            return end
        finally:
            held.stop()
            gone.cancel()
            held.wait.followers.remove(held.wait)

    def _when_woken(self, held: _Held) -> Callable[[], None]:
        """What another thread calls when something has come."""
        woken = self._loop.create_future()
        woken.add_done_callback(lambda _: self._gather(held))
        return partial(self._handover.put, woken, None)

    def _gather(self, held: _Held) -> None:
        """Something has come: wait on for what comes with it, together with all who wait for the same."""
        if held.over.done():
            return
        seconds = held.wait.followers.gather_seconds(held.wait)
        if held.wait.follower is None:
            held.gather(seconds)
            return
        # Its time may be over before that of the others: they gather for as long as the first of them may.
        key = held.wait.follower.feed_key
        if key not in self._gathering:
            self._gathering[key] = []
            self._loop.call_later(seconds, self._begin, key)
        self._gathering[key].append(held)

    def _begin(self, key: Hashable) -> None:
        # From here on a client that goes away is one that was answered: else its request would count twice.
        together = [held for held in self._gathering.pop(key) if not held.over.done()]
        for held in together:
            held.stop()
            held.is_being_answered = True
        if together:
            task = self._loop.create_task(self._answer(together))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _answer(self, together: list[_Held]) -> None:
        followers = [held.wait.follower for held in together if held.wait.follower is not None]
        answers: list[Answer | Place | None] = [None] * len(together)
        try:
            step = partial(contextvars.copy_context().run, self._answers.answer, followers)
            answers = await self._threads.run(together[0].wait.workspace_id, step)
        finally:
            for held, answer in zip(together, answers, strict=True):
                if isinstance(answer, Place):
                    self._wait_on(held, answer)
                else:
                    held.end(answer or End.DUE)

    def _wait_on(self, held: _Held, behind: Place) -> None:
        """Hold on what has come to a place up to which there is nothing for it."""
        further = held.wait.behind(behind)
        if held.over.done():  # the server gave it up meanwhile
            return
        if held.wait.followers.go_on(held.wait, further, self._when_woken(held)):
            held.wait_on(further)
        else:
            held.end(End.DUE)


async def _gone(protocol: HTTPProtocol) -> None:
    await protocol.client_disconnect()
