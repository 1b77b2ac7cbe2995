"""Answers common events before Flask's dispatch; WSGI middleware, and the part of it that an event loop can use.

It takes a request only if everything in its head is common and its key is in memory; everything else goes to Flask with
nothing changed. What it takes it answers itself, refusals too. 30 µs instead of 150 (bench/prices.py);
`LARIBA_FAST_PATH=off` sends every event through Flask.

A WSGI server's thread waits for body and commit (`__call__`). An adapter that reads bodies on an event loop takes
`begin` and `answer`, with waits of its own, and no thread waits (app/granian).
"""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any, Final, Protocol

import structlog
from msgspec import UNSET, Struct

from app.credentials.verification import Identity
from app.errors import BadRequest, BodyTimeout, InternalError, Refusal
from app.identifiers import request_id_from
from app.ingest.acceptance import Client, accept
from app.ingest.event import IncomingEvent
from app.ingest.services import IngestServices
from app.ingest.waits import BlockingWaits, Waits, run_blocking
from app.telemetry import metrics
from app.telemetry.access_log import RequestLine, RequestLines
from app.web.problems import Headers, cause_of, render
from app.wire.body_reads import ENDED_EARLY, discard_rest, patience
from app.wire.client_address import client_address
from app.wire.http_rules import forget_upgrade, is_odd

Environ = dict[str, Any]
StartResponse = Callable[[str, Headers], object]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]
Answer = tuple[int, Headers, bytes]

_log = structlog.get_logger()

PATH: Final = "/v1/events/ingest"
_METHOD: Final = "POST"
_REFUSED: Final = "event_refused"


def _count(answers: list[tuple[str, float]]) -> None:
    metrics.count_requests(_METHOD, PATH, answers)
    metrics.KEY_LOOKUPS.labels("memory").inc(len(answers))


# Of each answer: its outcome and its seconds.
_ANSWERS: Final = metrics.MetricBuffer(_count)


class PendingRequest(Struct, frozen=True, gc=False):
    """A common request, as far as its head tells: its body is not read yet."""

    environ: Environ
    identity: Identity
    length: int
    """Of its body, in bytes."""
    request_id: str
    began: float
    """In time.perf_counter() seconds."""


class BodyWaits(Waits, Protocol):
    """The waits of a request whose body may be left unread."""

    async def discard_body(self) -> None:
        """Read what is left of the body, in bounded time: else the client sees a closed connection, not the answer."""


class FastPath:
    """A WSGI application in front of another one."""

    def __init__(self, application: Application, services: IngestServices, lines: RequestLines) -> None:
        self.application: Final = application
        self._services = services
        self._lines = lines
        self.is_on = services.settings.fast_path == "on"

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """As WSGI has it: the thread waits for the body and for the commit."""
        forget_upgrade(environ)
        pending = self.begin(environ)
        if pending is None:
            return self.application(environ, start_response)
        # What is logged meanwhile must not have the fields of the request that this thread served before.
        structlog.contextvars.clear_contextvars()
        status, headers, body = run_blocking(self.answer(pending, _ThreadWaits(pending, self._services)))
        start_response(_status_line(status), headers)
        return [body]

    def begin(self, environ: Environ) -> PendingRequest | None:
        """The request, if its head is common and its key is in memory. Never raises."""
        if environ["PATH_INFO"] != PATH or environ["REQUEST_METHOD"] != _METHOD or not self.is_on:
            return None
        began = time.perf_counter()
        try:
            key = environ.get("HTTP_X_API_KEY")
            identity = self._services.credentials.lookup_cached(key, "sk") if key else None
            if identity is None or (length := self._length_of_plain_json(environ)) is None:
                return None
            return PendingRequest(environ, identity, length, request_id_from(environ.get("HTTP_X_REQUEST_ID")), began)
        except Exception:  # noqa: BLE001 - Flask raises it again, and answers, logs and counts it
            return None

    async def answer(self, pending: PendingRequest, waits: BodyWaits) -> Answer:
        """The answer: a receipt of what is committed, or a refusal. Never raises."""
        environ, request_id = pending.environ, pending.request_id
        address, log_event = "", _REFUSED
        refused: Refusal | None = None
        try:
            address = client_address(environ, self._services.settings.trusted_proxies)
            client = Client(environ["HTTP_X_API_KEY"], address, identity=pending.identity)
            event = IncomingEvent(client, environ.get("HTTP_IDEMPOTENCY_KEY"), waits, self._services)
            accepted = await accept(event, self._services)
            log_event, status, body = accepted.log_event, accepted.receipt.status, accepted.receipt.body.encode()
            headers = [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("X-Request-ID", request_id),
                *accepted.headers,
            ]
        except Exception as error:  # noqa: BLE001 - each is answered
            status, headers, body = await _refuse(error, pending, waits)
            refused = error if isinstance(error, Refusal) else InternalError()
        try:
            self._count_and_log(pending, address, log_event, refused, status)
        except Exception as error:  # noqa: BLE001 - the event may be stored, and its producer needs that answer
            await _log_crash("answer_crashed", error, pending, waits)
        return status, headers, body

    def _count_and_log(
        self, pending: PendingRequest, address: str, log_event: str, refused: Refusal | None, status: int
    ) -> None:
        seconds = time.perf_counter() - pending.began
        _ANSWERS.add((refused.code if refused else metrics.OUTCOMES[log_event], seconds))
        self._lines.add(
            RequestLine(
                level="warning" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "info",
                event=log_event,
                cause=UNSET if refused is None else cause_of(refused) or UNSET,
                error_code=refused.code if refused else UNSET,
                key=pending.identity.public_id,
                method=_METHOD,
                milliseconds=round(seconds * 1000, 2),
                path=PATH,
                remote_address=address,
                request_id=pending.request_id,
                status=status,
            )
        )

    def _length_of_plain_json(self, environ: Environ) -> int | None:
        """How long the body is, if it is announced as JSON and nothing is odd; else None."""
        length = environ.get("CONTENT_LENGTH", "")
        if (
            environ.get("CONTENT_TYPE") != "application/json"
            or not length.isdecimal()
            or "HTTP_CONTENT_ENCODING" in environ
            or "HTTP_TRANSFER_ENCODING" in environ
            or environ.get("QUERY_STRING")
            # A web page's: its answer needs headers that only Flask's blueprint gives (cors.py).
            or "HTTP_ORIGIN" in environ
            or is_odd(environ)
        ):
            return None
        return int(length) if int(length) <= self._services.settings.request_bytes_max else None


class _ThreadWaits(BlockingWaits):
    """Waits on the thread of a WSGI server."""

    def __init__(self, pending: PendingRequest, services: IngestServices) -> None:
        super().__init__(self._read, services.committer)
        self._environ = pending.environ
        self._length = pending.length
        self._owner = pending.identity.workspace_id
        self._limiter = services.body_reads
        self._seconds = services.settings.body_seconds
        self._is_read = False

    async def discard_body(self) -> None:
        """As discard_rest(). A body of which a read has failed is not waited for again."""
        discard_rest(self._environ, self._limiter, waits=not self._is_read)

    def _read(self) -> bytes:
        self._is_read = True
        try:
            with self._limiter.reading(self._owner), patience(self._environ, self._seconds):
                body: bytes = self._environ["wsgi.input"].read(self._length)
        except TimeoutError as error:
            raise BodyTimeout from error
        except OSError as error:
            raise BadRequest(ENDED_EARLY) from error
        if len(body) != self._length:  # not even a whole object in it may be stored
            raise BadRequest(ENDED_EARLY)
        return body


async def _refuse(error: Exception, pending: PendingRequest, waits: BodyWaits) -> Answer:
    """The answer to a request that is refused, or that crashed."""
    if not isinstance(error, Refusal):
        await _log_crash("request_crashed", error, pending, waits)
        error = InternalError()
    with suppress(Exception):  # the connection's error; the answer may still arrive
        await waits.discard_body()
    return render(error, pending.environ.get("HTTP_ACCEPT"), pending.request_id)


async def _log_crash(event: str, error: Exception, pending: PendingRequest, waits: Waits) -> None:
    """Log a fault of ours, with its traceback; not on an event loop, because a write may block."""
    log = partial(
        _log.error,
        event,
        exc_info=error,
        key=pending.identity.public_id,
        method=_METHOD,
        path=PATH,
        request_id=pending.request_id,
    )
    with suppress(Exception):  # the machine may have no thread left, and the request needs its answer
        await waits.run(log)


@lru_cache
def _status_line(status: int) -> str:
    return f"{status} {HTTPStatus(status).phrase.upper()}"
