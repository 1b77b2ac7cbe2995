"""Answers granian's requests (RSGI): common events on the event loop, all others by the WSGI application on a thread.

The loop reads every body. A common event goes on to the committer, whose result brings the answer back to the loop.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

from granian.rsgi import HTTPProtocol, Scope  # type: ignore[attr-defined]

from app.config import Settings
from app.credentials.verification import Credentials
from app.granian.application import next_piece, respond
from app.granian.bodies import SMALL_BYTES, BodyReader
from app.granian.bounds import Bounds
from app.granian.environ import Environ, complete, environ_of
from app.granian.owners import Owners
from app.granian.streaming import stream
from app.granian.threads import SharedThreads
from app.ingest.door import Answer, Door, Expected
from app.ingest.pending_write import WriteResult
from app.telemetry import metrics
from app.wire.body_reads import BODY_IS_WHOLE, BODY_REFUSAL
from app.wire.http_rules import forget_upgrade

# They have threads of their own, because they must be answered while all others wait.
_PROBES: Final = frozenset(("/healthz", "/readyz", "/metrics"))

Result = TypeVar("Result")


class GranianAdapter:
    """`granian --interface rsgi wsgi:rsgi`. Starts its threads when granian's worker has an event loop."""

    def __init__(self, door: Door, settings: Settings, credentials: Credentials) -> None:
        self._door = door
        self._bounds = Bounds.of(settings)
        self._bodies = BodyReader(settings, self._bounds)
        self._owners = Owners(credentials)

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._threads = SharedThreads(self._bounds.threads, "application")
        self._probe_threads = ThreadPoolExecutor(self._bounds.probe_threads, "probes")
        self._results = _Handover(loop)
        metrics.GRANIAN_ADAPTERS.set(1)

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._threads.shutdown()
        self._probe_threads.shutdown(wait=False)

    async def __rsgi__(self, scope: Scope, protocol: HTTPProtocol) -> None:
        environ = environ_of(scope)
        forget_upgrade(environ)
        expected = self._door.expects(environ)
        if expected is not None and expected.length <= SMALL_BYTES:
            answer = await self._answer_of_door(environ, expected, protocol)
            if answer is not None:
                protocol.response_bytes(*answer)
            else:
                await self._answer_by_application(environ, scope, protocol)
            return
        async with self._bodies.body_in(environ, protocol, self._owners.owner_of(environ)):
            await self._answer_by_application(environ, scope, protocol)

    async def _answer_of_door(self, environ: Environ, expected: Expected, protocol: HTTPProtocol) -> Answer | None:
        """The answer; or None, and then `environ` has the body and what became of the event."""
        environ[BODY_IS_WHOLE] = True
        try:
            body = await self._bodies.read_small(protocol, expected.identity.workspace_id)
            if (visit := self._door.visit(environ, expected, body)) is None:
                return None
            result: asyncio.Future[WriteResult] = self._loop.create_future()
            self._door.submit(visit, partial(self._results.put, result))
            return self._door.answer(environ, visit, await result)
        except Exception as error:  # noqa: BLE001 - a refusal, or what Flask's handlers answer, log and count
            environ[BODY_REFUSAL] = error
            return None

    async def _answer_by_application(self, environ: Environ, scope: Scope, protocol: HTTPProtocol) -> None:
        complete(environ, scope)
        is_probe = environ["PATH_INFO"] in _PROBES
        owner, member = (None, None) if is_probe else self._owners.queue_of(environ)
        # The context variables of this request, for each of its steps, whichever thread has it.
        context = contextvars.copy_context()

        def run(step: Callable[[], Result]) -> Awaitable[Result]:
            if is_probe:
                return self._loop.run_in_executor(self._probe_threads, partial(context.run, step))
            return self._threads.run(owner, partial(context.run, step), member)

        response = await run(partial(respond, self._door.application, environ))
        if response.rest is None:
            protocol.response_bytes(response.status, response.headers, response.body)
            return
        try:
            more = partial(run, partial(next_piece, response.rest))
            await stream(protocol, response.status, response.headers, response.body, more)
        finally:
            await run(response.close)


class _Handover:
    """Sets results that other threads have found in futures of the loop, with one wake-up for many of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._found: deque[tuple[asyncio.Future[Any], Any]] = deque()
        self._is_called = False

    def put(self, future: "asyncio.Future[Any]", result: object) -> None:
        """From any thread."""
        self._found.append((future, result))
        if not self._is_called:
            self._is_called = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # First, so that a put() from now on calls again.
        self._is_called = False
        while self._found:
            future, result = self._found.popleft()
            if not future.done():
                future.set_result(result)
