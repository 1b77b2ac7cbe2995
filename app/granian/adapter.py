"""Answers granian's requests (RSGI): common events on the event loop, all others by the WSGI application on a thread.

The loop reads every body. A common event goes on to the committer, whose result brings the answer back to the loop.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from granian.rsgi import HTTPProtocol, Scope  # type: ignore[attr-defined]

from app.events.feed.ending import say_that_it_ends
from app.events.feed.followers import Wait
from app.events.feed.shared_answers import SharedAnswers
from app.granian.application import next_piece, respond
from app.granian.bodies import SMALL_BYTES, BodyReader
from app.granian.bounds import Bounds
from app.granian.environ import Environ, complete, environ_of
from app.granian.owners import Owners
from app.granian.signals import on_stop
from app.granian.streaming import stream
from app.granian.threads import SharedThreads
from app.granian.waiting import End, FeedWaits, allow_wait, follows_feed, wait_in
from app.granian.waits import Loop, LoopWaits
from app.ingest.fast_path import FastPath
from app.ingest.services import IngestServices
from app.telemetry import metrics
from app.wire.http_rules import forget_upgrade

# They have threads of their own, because they must be answered while all others wait.
_PROBES: Final = frozenset(("/healthz", "/readyz", "/metrics"))

Result = TypeVar("Result")


class GranianAdapter:
    """`granian --interface rsgi wsgi:rsgi`. Starts its threads when granian's worker has an event loop."""

    def __init__(self, fast_path: FastPath, services: IngestServices, shared_answers: SharedAnswers) -> None:
        self._fast_path = fast_path
        self._shared_answers = shared_answers
        self._committer = services.committer
        self._bounds = Bounds.of(services.settings)
        self._bodies = BodyReader(services.settings, self._bounds)
        self._owners = Owners(services.credentials)

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._threads = SharedThreads(self._bounds.threads, "application")
        self._feed_threads = SharedThreads(self._bounds.feed_threads, "feed")
        self._probe_threads = ThreadPoolExecutor(self._bounds.probe_threads, "probes")
        self._shared = Loop(loop, self._bodies, self._threads)
        self._feed_waits = FeedWaits(loop, self._feed_threads, self._shared.handover, self._shared_answers)
        self._forget_stops = on_stop(say_that_it_ends)
        metrics.GRANIAN_ADAPTERS.set(1)

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._forget_stops()
        self._threads.shutdown()
        self._feed_threads.shutdown()
        self._probe_threads.shutdown(wait=False)

    async def __rsgi__(self, scope: Scope, protocol: HTTPProtocol) -> None:
        environ = environ_of(scope)
        forget_upgrade(environ)
        pending = self._fast_path.begin(environ)
        if pending is not None and pending.length <= SMALL_BYTES:
            waits = LoopWaits(pending, protocol, self._shared, self._committer)
            protocol.response_bytes(*await self._fast_path.answer(pending, waits))
            return
        wait = self._shared_answers.take_up(environ)
        if wait is not None and await self._is_answered(wait, protocol):
            return
        owner = self._owners.owner_of(environ)
        async with self._bodies.body_in(environ, protocol, owner):
            complete(environ, scope)
            await self._answer_by_application(environ, owner, protocol)

    async def _is_answered(self, wait: Wait, protocol: HTTPProtocol) -> bool:
        """Whether the request needs the application no more, which it has not come to yet."""
        end = await self._feed_waits.end_of(wait, protocol)
        if not isinstance(end, End):
            protocol.response_bytes(*end)
        return end is End.GONE or not isinstance(end, End)

    async def _answer_by_application(self, environ: Environ, owner: Hashable, protocol: HTTPProtocol) -> None:
        is_probe = environ["PATH_INFO"] in _PROBES
        threads = self._feed_threads if follows_feed(environ) else self._threads
        queue, member = self._owners.queue_of(environ, owner)
        # The context variables of this request, for each of its steps, whichever thread has it.
        context = contextvars.copy_context()

        def run(step: Callable[[], Result]) -> Awaitable[Result]:
            if is_probe:
                return self._loop.run_in_executor(self._probe_threads, partial(context.run, step))
            return threads.run(queue, partial(context.run, step), member)

        allow_wait(environ)
        response = await run(partial(respond, self._fast_path.application, environ))
        while (wait := wait_in(environ)) is not None:
            end = await self._feed_waits.end_of(wait, protocol)
            if not isinstance(end, End):
                protocol.response_bytes(*end)
                return
            if end is not End.DUE:
                break
            response = await run(partial(respond, self._fast_path.application, environ))
        if response.rest is None:
            protocol.response_bytes(response.status, response.headers, response.body)
            return
        try:
            more = partial(run, partial(next_piece, response.rest))
            await stream(protocol, response.status, response.headers, response.body, more)
        finally:
            await run(response.close)
