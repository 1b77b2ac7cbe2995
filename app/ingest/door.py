"""The door: answers the common event before Flask's dispatch, by the same functions that the blueprint uses.

Fast yes, slow no. It takes a request only if everything about it is common, and answers only what was accepted. At
anything else it has changed nothing but the position in the body, which it puts back, and Flask's blueprint answers:
every refusal is worded in one place. 30 µs instead of 150 (bench/prices.py); `LARIBA_DOOR=off` closes it.

Under a server that can be answered later (app/deferred_answers.py) no thread waits for the commit at all.
"""

import io
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

import structlog
from msgspec import Struct

from app import metrics
from app.client_address import client_address
from app.credentials import Identity
from app.errors import Refusal
from app.idempotency_keys import read_idempotency_key
from app.identifiers import uuid7
from app.ingest.acceptance import DECIDED, Counter, Decided
from app.ingest.common_envelope import read_common_envelope
from app.ingest.envelope import Attempt, Receipt
from app.ingest.pending_write import WriteResult
from app.ingest.storage import LOG_EVENTS, Outcome, Verdict
from app.rate_limits import Allowance, events_worth
from app.request_lines import RequestLines, request_id_from

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]
Respond = Callable[[int, list[tuple[str, str]], bytes], None]
Answer = tuple[int, list[tuple[str, str]], bytes]

_log = structlog.get_logger()

PATH: Final = "/v1/events/ingest"
_REASONS: Final = {200: "200 OK", 201: "201 CREATED"}
_METHOD: Final = "POST"


def _count(answers: list[tuple[str, float]]) -> None:
    metrics.count_requests(_METHOD, PATH, answers)
    metrics.KEY_LOOKUPS.labels("memory").inc(len(answers))


# Of each answer: its outcome and its seconds.
_ANSWERS: Final = metrics.Tally(_count)


class _Visit(Struct, gc=False):
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
        self._application = application
        self._counter = counter
        self._lines = lines
        self.is_open = counter.settings.door == "on"

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """As WSGI has it: the thread waits for the commit."""
        if (visit := self._visit(environ)) is None:
            return self._application(environ, start_response)
        decision: WriteResult
        try:
            decision = self._counter.committer.store(visit.identity, visit.attempt)
        except Exception as error:  # noqa: BLE001 - Flask's handlers say what it means
            decision = error
        if (answer := self._accepted(environ, visit, decision)) is None:
            return self._application(environ, start_response)
        status, headers, body = answer
        start_response(_REASONS[status], headers)
        return [body]

    def take(self, environ: Environ, respond: Respond, fall_back: Callable[[], object]) -> bool:
        """Take the request and answer it later, by `respond` or by `fall_back`; False if it is not for the door.

        `fall_back` runs the application as if the door were not there.
        """
        if (visit := self._visit(environ)) is None:
            return False

        def settle(decision: WriteResult) -> None:
            if (answer := self._accepted(environ, visit, decision)) is None:
                fall_back()
            else:
                respond(*answer)

        try:
            self._counter.committer.submit(visit.identity, visit.attempt, settle)
        except Exception as error:  # noqa: BLE001 - Flask's handlers say what it means
            environ[DECIDED] = Decided(visit.identity, visit.allowance, error)
            return False
        return True

    def _visit(self, environ: Environ) -> _Visit | None:
        """What a common request asks for, or None; then nothing has happened, and Flask answers."""
        try:
            return self._common_request(environ)
        except Exception as error:  # noqa: BLE001 - Flask's handlers answer, log and count it
            environ[DECIDED] = error
            return None

    def _common_request(self, environ: Environ) -> _Visit | None:
        """As _visit; after a None the body can be read again."""
        if not self.is_open or environ["PATH_INFO"] != PATH or environ["REQUEST_METHOD"] != _METHOD:
            return None
        began = time.perf_counter()
        counter = self._counter
        key_header = environ.get("HTTP_X_API_KEY")
        identity = counter.credentials.recognise(key_header, "sk") if key_header else None
        if identity is None or (length := self._plain_json_length(environ)) is None:
            return None
        try:
            idempotency_key = read_idempotency_key(environ.get("HTTP_IDEMPOTENCY_KEY"))
            with counter.uploads.reading(identity.row_id):
                body = environ["wsgi.input"].read(length)
        except Refusal:
            return None
        if (envelope := read_common_envelope(body)) is not None:
            address = client_address(environ, counter.settings.trusted_proxies)
            with suppress(Refusal):
                return _Visit(
                    identity,
                    Attempt(
                        envelope=envelope,
                        idempotency_key=idempotency_key,
                        event_uid=uuid7(),
                        address=address,
                    ),
                    counter.rate_limiter.admit(identity, events_worth(len(body))),
                    began,
                    request_id_from(environ.get("HTTP_X_REQUEST_ID")),
                    address,
                )
        environ["wsgi.input"] = io.BytesIO(body)
        return None

    def _plain_json_length(self, environ: Environ) -> int | None:
        """How long the body is, if it is announced as JSON and nothing more; else None."""
        length = environ.get("CONTENT_LENGTH", "")
        if (
            environ.get("CONTENT_TYPE") != "application/json"
            or not length.isdecimal()
            or "HTTP_CONTENT_ENCODING" in environ
            or "HTTP_TRANSFER_ENCODING" in environ
            or environ.get("QUERY_STRING")
            # A web page's: its answer needs headers that only Flask's blueprint gives (cors.py).
            or "HTTP_ORIGIN" in environ
        ):
            return None
        return int(length) if int(length) <= self._counter.settings.request_bytes_max else None

    def _accepted(self, environ: Environ, visit: _Visit, decision: WriteResult) -> Answer | None:
        """The answer to what was accepted, or None; then Flask finds the decision and answers."""
        if isinstance(decision, Verdict) and decision.receipt is not None:
            try:
                return decision.receipt.status, *self._answer(visit, decision.outcome, decision.receipt)
            except Exception:  # noqa: BLE001 - the event is stored, and its producer must hear that
                _log.exception("answer_crashed")
        environ[DECIDED] = Decided(visit.identity, visit.allowance, decision)
        return None

    def _answer(self, visit: _Visit, outcome: Outcome, receipt: Receipt) -> tuple[list[tuple[str, str]], bytes]:
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
        _ANSWERS.note((metrics.OUTCOMES[log_event], seconds))
        self._lines.note(
            log_event,
            key=visit.identity.public_id,
            method=_METHOD,
            milliseconds=round(seconds * 1000, 2),
            path=PATH,
            remote_address=visit.remote_address,
            request_id=visit.request_id,
            status=receipt.status,
        )
        return headers, body
