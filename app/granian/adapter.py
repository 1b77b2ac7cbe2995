"""Answers granian's requests (RSGI): common events on the event loop, everything else by the WSGI application.

The loop reads every body, so that no thread waits for one. A common event goes on to the committer, and its answer
comes back when it is committed. What is left is given to the application, behind the fast path, on a thread of a pool.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from app.granian.bodies import SMALL_BYTES, BodyReader
from app.granian.environ import Environ, Scope, complete, environ_of
from app.granian.streaming import PIPE_BYTES, stream
from app.granian.threads import SharedThreads
from app.granian.waits import Loop, LoopWaits
from app.ingest.fast_path import Application, FastPath
from app.ingest.services import IngestServices
from app.telemetry import metrics
from app.wire.http_rules import forget_upgrade

# The application waits on them: for PostgreSQL, for a connection to it, for argon2. Some dozens may do so for one
# workspace, which gets half of them at the most.
_THREADS: Final = 128
# A probe must be answered also when all threads wait.
_PROBES: Final = frozenset(("/healthz", "/readyz", "/metrics"))
_PROBE_THREADS: Final = 2
# Paths that take a right away.
_URGENT: Final = ("/revoke", "/disable")

Header = tuple[str, str]
Result = TypeVar("Result")


class _Response(NamedTuple):
    status: int
    headers: list[Header]
    body: bytes
    """All of it, or more than a pipe holds, and then `more` has the rest."""
    more: Iterator[bytes] | None


class GranianAdapter:
    """`granian --interface rsgi wsgi:rsgi`. Begins when granian's worker has its loop; until then it is a value."""

    def __init__(self, fast_path: FastPath, services: IngestServices) -> None:
        self._fast_path = fast_path
        self._committer = services.committer
        self._bodies = BodyReader(services.settings, services.credentials)

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._threads = SharedThreads(_THREADS, "application")
        self._probe_threads = ThreadPoolExecutor(_PROBE_THREADS, "probes")
        self._shared = Loop(loop, self._bodies, self._threads)
        metrics.GRANIAN_ADAPTERS.set(1)

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._threads.shutdown()
        self._probe_threads.shutdown(wait=False)

    async def __rsgi__(self, scope: Scope, protocol: Any) -> None:
        environ = environ_of(scope)
        forget_upgrade(environ)
        pending = self._fast_path.begin(environ)
        if pending is not None and pending.length <= SMALL_BYTES:
            waits = LoopWaits(pending, protocol, self._shared, self._committer)
            protocol.response_bytes(*await self._fast_path.answer(pending, waits))
            return
        async with self._bodies.body_in(environ, protocol):
            await self._answer_by_application(environ, scope, protocol)

    def turns_of(self, environ: Environ) -> tuple[Hashable, Hashable]:
        """The owner and the member (threads.py) whose turns at the threads this request takes.

        Any number of tokens, or of revoked keys, takes the turns of one workspace at the most.
        """
        owner = self._bodies.owner_of(environ)
        is_known = not isinstance(owner, str)  # a workspace's row, and not the id of a credential
        if environ["PATH_INFO"].endswith(_URGENT) and (token := self._bodies.token_of(environ)) is not None:
            # Apart, as for connections: what else the workspace has waiting must not keep a leak open.
            return (owner if is_known else "unknown", "urgent"), token
        return (owner, None) if is_known else ("unknown", owner)

    async def _answer_by_application(self, environ: Environ, scope: Scope, protocol: Any) -> None:
        complete(environ, scope)
        is_probe = environ["PATH_INFO"] in _PROBES
        owner, member = (None, None) if is_probe else self.turns_of(environ)
        # What the application binds to its request goes along from one thread to the next.
        context = contextvars.copy_context()

        def run(step: Callable[[], Result]) -> Awaitable[Result]:
            if is_probe:
                return self._loop.run_in_executor(self._probe_threads, partial(context.run, step))
            return self._threads.run(owner, partial(context.run, step), member)

        response = await run(partial(_run, self._fast_path.application, environ))
        if response.more is None:
            protocol.response_bytes(response.status, response.headers, response.body)
            return
        try:
            more = partial(run, partial(_next_of, response.more))
            await stream(protocol, response.status, response.headers, response.body, more)
        finally:
            await run(partial(_close, response.more))


def _run(application: Application, environ: Environ) -> _Response:
    """The application's answer; read to its end, unless it is longer than a pipe holds and of unknown length."""
    started: list[tuple[str, list[Header]]] = []

    def start_response(status: str, headers: list[Header], _error: object = None) -> None:
        started.append((status, headers))

    chunks = application(environ, start_response)
    pieces = iter(chunks)
    body = bytearray()
    is_of_known_length = any(name.lower() == "content-length" for name, _ in started[0][1]) if started else False
    rest = None
    while (piece := _next_of(pieces)) is not None:
        body += piece
        if not is_of_known_length and len(body) > PIPE_BYTES:
            rest = _Rest(pieces, chunks)
            break
    else:
        _close(chunks)
    status, headers = started[-1]
    return _Response(int(status[:3]), headers, bytes(body), rest)


class _Rest(Iterator[bytes]):
    """What is left of an answer, with the end of it that WSGI wants to be called."""

    def __init__(self, pieces: Iterator[bytes], answer: object) -> None:
        self._pieces = pieces
        self._answer = answer

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        _close(self._answer)


def _next_of(pieces: Iterator[bytes]) -> bytes | None:
    with suppress(Exception):  # the application has logged it, and its last line says so (docs/audit.md)
        return next(pieces, None)
    return None


def _close(answer: object) -> None:
    close = getattr(answer, "close", None)
    if close is not None:
        close()
