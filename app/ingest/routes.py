"""The counter of the data plane: POST /v1/events/ingest. Turns HTTP into a Submission and a Receipt into HTTP."""

import structlog
from flask import Response, request
from flask_smorest import Blueprint

from app.context import context, now
from app.ingest.acceptance import Counter, Submission, accept
from app.ingest.openapi import INGEST_OPERATION
from app.ingest.storage import Outcome, Verdict
from app.request_body import check_media_type, read_bytes

blueprint = Blueprint("ingest", __name__, description="Send events (source key in X-API-Key)")

# The static names under which the road's lines stand in the log.
_LOG_EVENTS = {
    Outcome.STORED: "event_accepted",
    Outcome.RESUMED: "event_accepted",
    Outcome.DUPLICATE: "event_duplicate",
    Outcome.REPLAYED: "event_replayed",
}


@blueprint.route("/v1/events/ingest", methods=["POST"])
@blueprint.doc(**INGEST_OPERATION)
def ingest_event() -> Response:
    """Store one event, exactly once."""
    structlog.contextvars.bind_contextvars(outcome="event_refused")
    house = context()
    submission = Submission(
        key_header=request.headers.get("X-API-Key"),
        idempotency_header=request.headers.get("Idempotency-Key"),
        read_body=_read_body,
        received_at=now(),
    )
    verdict = accept(submission, Counter(house.settings, house.database, house.credentials))
    return _answer(verdict)


def _read_body() -> bytes:
    check_media_type()
    return read_bytes()


def _answer(verdict: Verdict) -> Response:
    receipt = verdict.receipt
    if receipt is None:  # pragma: no cover - accept() raises for every refusal
        raise TypeError(verdict.outcome)
    structlog.contextvars.bind_contextvars(outcome=_LOG_EVENTS[verdict.outcome])
    response = Response(receipt.body, receipt.status, mimetype="application/json")
    if receipt.is_replay:
        response.headers["Idempotent-Replayed"] = "true"
    return response
