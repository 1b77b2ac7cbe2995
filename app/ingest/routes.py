"""The counter of the data plane: POST /v1/events/ingest. Turns HTTP into a Submission and a Receipt into HTTP."""

from typing import Final

import structlog
from flask import Response, current_app, request
from flask_smorest import Blueprint

from app.context import now
from app.ingest.acceptance import DECIDED, Counter, Submission, accept, accepted
from app.ingest.openapi import INGEST_OPERATION
from app.ingest.storage import LOG_EVENTS, Verdict
from app.request_body import check_media_type, read_bytes

COUNTER: Final = "lariba.ingest"

blueprint = Blueprint("ingest", __name__, description="Send events (source key in X-API-Key)")


@blueprint.route("/v1/events/ingest", methods=["POST"])
@blueprint.doc(**INGEST_OPERATION)
def ingest_event() -> Response:
    """Store one event, exactly once."""
    structlog.contextvars.bind_contextvars(outcome="event_refused")
    if (decided := request.environ.get(DECIDED)) is not None:
        structlog.contextvars.bind_contextvars(key=decided.identity.public_id)
        return _answer(accepted(decided.decision))
    submission = Submission(
        key_header=request.headers.get("X-API-Key"),
        idempotency_header=request.headers.get("Idempotency-Key"),
        read_body=_read_body,
        received_at=now(),
    )
    return _answer(accept(submission, counter()))


def counter() -> Counter:
    """What the factory has laid on the counter of the app that serves this request."""
    value = current_app.extensions[COUNTER]
    if not isinstance(value, Counter):  # pragma: no cover - a wiring mistake, not a state
        raise TypeError(COUNTER)
    return value


def _read_body() -> bytes:
    check_media_type()
    return read_bytes()


def _answer(verdict: Verdict) -> Response:
    receipt = verdict.receipt
    if receipt is None:  # pragma: no cover - accept() raises for every refusal
        raise TypeError(verdict.outcome)
    structlog.contextvars.bind_contextvars(outcome=LOG_EVENTS[verdict.outcome])
    response = Response(receipt.body, receipt.status, mimetype="application/json")
    if receipt.is_replay:
        response.headers["Idempotent-Replayed"] = "true"
    return response
