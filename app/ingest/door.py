"""The door: answers the common event before Flask's dispatch, by the same functions that the blueprint uses.

Fast yes, slow no. It takes a request only if everything about it is common, and answers only what was accepted. At
anything else it has changed nothing but the position in the body, which it puts back, and Flask's blueprint answers:
every refusal is worded in one place. 30 µs instead of 150 (bench/prices.py); `LARIBA_DOOR=off` closes it.

A WSGI server's thread waits for the commit (`__call__`). An adapter that reads bodies itself (app/granian) takes the
same steps one by one, and no thread waits: `expects`, `visit`, `submit`, `answer`.
"""

import io
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

import structlog
from msgspec import Struct

from app.credentials.verification import Identity
from app.errors import Refusal
from app.identifiers import uuid7
from app.ingest.acceptance import DECIDED, Counter, Decided
from app.ingest.common_envelope import read_common_envelope
from app.ingest.envelope import Attempt, Receipt
from app.ingest.pending_write import WriteResult
from app.ingest.storage import LOG_EVENTS, Outcome, Verdict
from app.rate_limits import Allowance, events_worth
from app.telemetry import metrics
from app.telemetry.access_log import RequestLine, RequestLines, request_id_from
from app.wire.body_reads import patience
from app.wire.client_address import client_address
from app.wire.http_rules import forget_upgrade, is_odd
from app.wire.idempotency_key import read_idempotency_key

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]
Answer = tuple[int, list[tuple[str, str]], bytes]

_log = structlog.get_logger()

PATH: Final = "/v1/events/ingest"
_REASONS: Final = {200: "200 OK", 201: "201 CREATED"}
_METHOD: Final = "POST"


def _count(answers: list[tuple[str, float]]) -> None:
    metrics.count_requests(_METHOD, PATH, answers)
    metrics.KEY_LOOKUPS.labels("memory").inc(len(answers))


# Of each answer: its outcome and its seconds.
_ANSWERS: Final = metrics.MetricBuffer(_count)


class Expected(Struct, gc=False):
    """What the head of a common request says: whose it is, and how long its body will be."""

    identity: Identity
    length: int
    began: float


class Visit(Struct, gc=False):
    """A common request: the attempt that it asks for, and what its answer and its line in the log need."""

    identity: Identity
    attempt: Attempt
    allowance: Allowance
    began: float
    request_id: str
    remote_address: str


class Door:
    """A WSGI application in front of another one."""

    def __init__(self, application: Application, counter: Counter, lines: RequestLines) -> None:
        self.application: Final = application
        self._counter = counter
        self._lines = lines
        self.is_open = counter.settings.door == "on"
        self._is_server_known = False

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """As WSGI has it: the thread waits for the commit."""
        if not self._is_server_known:
            self._look_at_server(environ)
        forget_upgrade(environ)
        visit = None
        if (expected := self.expects(environ)) is not None and (body := self._read(environ, expected)) is not None:
            visit = self.visit(environ, expected, body)
        if visit is None:
            return self.application(environ, start_response)
        decision: WriteResult
        try:
            decision = self._counter.committer.store(visit.identity, visit.attempt)
        except Exception as error:  # noqa: BLE001 - Flask's handlers say what it means
            decision = error
        if (answer := self.answer(environ, visit, decision)) is None:
            return self.application(environ, start_response)
        status, headers, body = answer
        start_response(_REASONS[status], headers)
        return [body]

    def _look_at_server(self, environ: Environ) -> None:
        """Say once what a server cannot keep (docs/operations.md)."""
        self._is_server_known = True
        if environ.get("SERVER_SOFTWARE") == "Granian":
            _log.warning(
                "granian_without_adapter",
                hint="Start it with --interface rsgi wsgi:rsgi. Its WSGI takes X_API_Key for X-API-Key.",
            )

    def expects(self, environ: Environ) -> Expected | None:
        """What the body of a common request should be; None if the request is not common, as far as its head tells."""
        if environ["PATH_INFO"] != PATH or environ["REQUEST_METHOD"] != _METHOD or not self.is_open:
            return None
        began = time.perf_counter()
        try:
            key_header = environ.get("HTTP_X_API_KEY")
            identity = self._counter.credentials.recognise(key_header, "sk") if key_header else None
            if identity is None or (length := self._plain_json_length(environ)) is None:
                return None
            return Expected(identity, length, began)
        except Exception as error:  # noqa: BLE001 - Flask's handlers answer, log and count it
            environ[DECIDED] = error
            return None

    def visit(self, environ: Environ, expected: Expected, body: bytes) -> Visit | None:
        """What a common request asks for, or None; then nothing has happened, and Flask can read the body."""
        visit = None
        try:
            if len(body) == expected.length:  # else it broke off, and not even a whole object in it may be stored
                visit = self._common(environ, expected, body)
        except Exception as error:  # noqa: BLE001 - Flask's handlers answer, log and count it
            environ[DECIDED] = error
        if visit is None:
            environ["wsgi.input"] = io.BytesIO(body)
        return visit

    def submit(self, visit: Visit, settle: Callable[[WriteResult], None]) -> None:
        """Hand the attempt in; `settle` is called once, on another thread or at once."""
        try:
            self._counter.committer.submit(visit.identity, visit.attempt, settle)
        except Exception as error:  # noqa: BLE001 - Flask's handlers say what it means
            settle(error)

    def _read(self, environ: Environ, expected: Expected) -> bytes | None:
        """The body; None if there is none to be had now, for a reason that Flask will meet again."""
        try:
            seconds = self._counter.settings.body_seconds
            with self._counter.body_reads.reading(expected.identity.workspace_id), patience(environ, seconds):
                body: bytes = environ["wsgi.input"].read(expected.length)
        except (Refusal, OSError):
            return None
        return body

    def _common(self, environ: Environ, expected: Expected, body: bytes) -> Visit | None:
        with suppress(Refusal):
            idempotency_key = read_idempotency_key(environ.get("HTTP_IDEMPOTENCY_KEY"))
            if (envelope := read_common_envelope(body)) is None:
                return None
            identity = expected.identity
            address = client_address(environ, self._counter.settings.trusted_proxies)
            return Visit(
                identity,
                Attempt(
                    envelope=envelope,
                    idempotency_key=idempotency_key,
                    event_uid=uuid7(),
                    address=address,
                ),
                self._counter.rate_limiter.admit(identity, events_worth(len(body))),
                expected.began,
                request_id_from(environ.get("HTTP_X_REQUEST_ID")),
                address,
            )
        return None

    def _plain_json_length(self, environ: Environ) -> int | None:
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
        return int(length) if int(length) <= self._counter.settings.request_bytes_max else None

    def answer(self, environ: Environ, visit: Visit, decision: WriteResult) -> Answer | None:
        """The answer to what was accepted, or None; then Flask finds the decision in `environ` and answers."""
        if isinstance(decision, Verdict) and decision.receipt is not None:
            try:
                return decision.receipt.status, *self._answer(visit, decision.outcome, decision.receipt)
            except Exception:  # noqa: BLE001 - the event is stored, and its producer must hear that
                _log.exception("answer_crashed")
        environ[DECIDED] = Decided(visit.identity, visit.allowance, decision)
        return None

    def _answer(self, visit: Visit, outcome: Outcome, receipt: Receipt) -> tuple[list[tuple[str, str]], bytes]:
        body = receipt.body.encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("X-Request-ID", visit.request_id),
            *visit.allowance.headers.items(),
        ]
        if receipt.is_replay:
            headers.append(("Idempotent-Replayed", "true"))
        seconds = time.perf_counter() - visit.began
        log_event = LOG_EVENTS[outcome]
        _ANSWERS.add((metrics.OUTCOMES[log_event], seconds))
        self._lines.add(
            RequestLine(
                event=log_event,
                key=visit.identity.public_id,
                method=_METHOD,
                milliseconds=round(seconds * 1000, 2),
                path=PATH,
                remote_address=visit.remote_address,
                request_id=visit.request_id,
                status=receipt.status,
            )
        )
        return headers, body
