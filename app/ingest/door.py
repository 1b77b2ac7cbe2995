"""The door: answers the common event before Flask's dispatch, by the same functions that the blueprint uses.

Fast yes, slow no. It takes a request only if everything about it is common, and answers only what was accepted. At
anything else it has changed nothing but the position in the body, which it puts back, and Flask's blueprint answers:
every refusal is worded in one place. 30 µs instead of 150 (bench/prices.py); `LARIBA_DOOR=off` closes it.

Under a server that can be answered later (app/deferred_answers.py) no thread waits for the commit at all.
"""

import io
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from app.context import now
from app.credentials import Identity
from app.errors import Refusal
from app.identifiers import uuid7
from app.ingest.acceptance import DECIDED, Counter, Decided
from app.ingest.common_envelope import read_common_envelope
from app.ingest.envelope import Attempt, Receipt, read_idempotency_key
from app.ingest.storage import LOG_EVENTS, Verdict
from app.ingest.ticket import Decision
from app.rate_limits import Allowance
from app.request_lines import RequestLines, request_id_from

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]
Respond = Callable[[int, list[tuple[str, str]], bytes], None]

PATH: Final = "/v1/events/ingest"
_REASONS: Final = {200: "200 OK", 201: "201 CREATED"}


@dataclass(frozen=True, slots=True)
class _Caller:
    """What the answer and its line in the log need of the request."""

    identity: Identity
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
        if (submitted := self._submission(environ)) is None:
            return self._application(environ, start_response)
        caller, attempt = submitted
        decision: Decision
        try:
            decision = self._counter.committer.store(caller.identity, attempt)
        except Exception as error:  # noqa: BLE001 - Flask's handlers say what it means
            decision = error
        if (receipt := _receipt(decision)) is None:
            environ[DECIDED] = Decided(caller.identity, caller.allowance, decision)
            return self._application(environ, start_response)
        headers, body = self._answer(caller, decision, receipt)
        start_response(_REASONS[receipt.status], headers)
        return [body]

    def take(self, environ: Environ, respond: Respond, fall_back: Callable[[], object]) -> bool:
        """Take the request and answer it later, by `respond` or by `fall_back`; False if it is not for the door.

        `fall_back` runs the application as if the door were not there.
        """
        if (submitted := self._submission(environ)) is None:
            return False
        caller, attempt = submitted

        def settle(decision: Decision) -> None:
            if (receipt := _receipt(decision)) is None:
                environ[DECIDED] = Decided(caller.identity, caller.allowance, decision)
                fall_back()
            else:
                headers, body = self._answer(caller, decision, receipt)
                respond(receipt.status, headers, body)

        try:
            self._counter.committer.submit(caller.identity, attempt, settle)
        except Refusal as refusal:
            environ[DECIDED] = Decided(caller.identity, caller.allowance, refusal)
            return False
        return True

    def _submission(self, environ: Environ) -> tuple[_Caller, Attempt] | None:
        """The attempt in a common request, or None; then the body can be read again."""
        if not self.is_open or environ["PATH_INFO"] != PATH or environ["REQUEST_METHOD"] != "POST":
            return None
        began = time.perf_counter()
        header = environ.get("HTTP_X_API_KEY")
        identity = self._counter.credentials.recognise(header, "sk") if header else None
        if identity is None or not self._is_plain_json(environ):
            return None
        try:
            idempotency_key = read_idempotency_key(environ.get("HTTP_IDEMPOTENCY_KEY"))
        except Refusal:
            return None
        source, length = environ["wsgi.input"], int(environ["CONTENT_LENGTH"])
        try:
            body = self._counter.uploads.read(identity.row_id, lambda: source.read(length))
            environ["wsgi.input"] = io.BytesIO(body)
            if (envelope := read_common_envelope(body)) is None:
                return None
            allowance = self._counter.rate_limiter.admit(identity)
        except Refusal:
            return None
        caller = _Caller(
            identity,
            allowance,
            began,
            request_id_from(environ.get("HTTP_X_REQUEST_ID")),
            environ.get("REMOTE_ADDR", ""),
        )
        attempt = Attempt(envelope=envelope, idempotency_key=idempotency_key, received_at=now(), event_uid=uuid7())
        return caller, attempt

    def _is_plain_json(self, environ: Environ) -> bool:
        length = environ.get("CONTENT_LENGTH", "")
        return (
            environ.get("CONTENT_TYPE") == "application/json"
            and length.isdecimal()
            and int(length) <= self._counter.settings.request_bytes_max
            and "HTTP_CONTENT_ENCODING" not in environ
            and "HTTP_TRANSFER_ENCODING" not in environ
        )

    def _answer(self, caller: _Caller, decision: Decision, receipt: Receipt) -> tuple[list[tuple[str, str]], bytes]:
        body = receipt.body.encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("X-Request-ID", caller.request_id),
        ]
        if receipt.is_replay:
            headers.append(("Idempotent-Replayed", "true"))
        headers += caller.allowance.headers.items()
        if isinstance(decision, Verdict):
            self._lines.note(
                LOG_EVENTS[decision.outcome],
                key=caller.identity.public_id,
                method="POST",
                milliseconds=round((time.perf_counter() - caller.began) * 1000, 2),
                path=PATH,
                remote_address=caller.remote_address,
                request_id=caller.request_id,
                status=receipt.status,
            )
        return headers, body


def _receipt(decision: Decision) -> Receipt | None:
    return decision.receipt if isinstance(decision, Verdict) else None
