"""The counter of the data plane: POST /v1/events/ingest. Turns HTTP into a Submission and a Receipt into HTTP."""

from contextlib import suppress

import structlog
from flask import Response, request
from flask_smorest import Blueprint
from werkzeug.exceptions import RequestEntityTooLarge

from app.context import context, now
from app.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType
from app.ingest.acceptance import Counter, Submission, accept
from app.ingest.openapi import INGEST_OPERATION
from app.ingest.storage import Outcome, Verdict

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
    if request.mimetype != "application/json":
        raise UnsupportedMediaType
    if request.mimetype_params.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise UnsupportedMediaType("The charset must be utf-8.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("Content-Encoding is not supported: send the JSON as it is.")
    # Werkzeug cuts a chunked body off at its limit in silence and refuses only a declared length above it. With a
    # limit one byte higher, a body that was cut is a body that is too large.
    bytes_max = context().settings.request_bytes_max
    request.max_content_length = bytes_max + 1
    with suppress(RequestEntityTooLarge):
        body = request.get_data(cache=False)
        if len(body) < (request.content_length or 0):
            raise BadRequest("The body ended before its Content-Length.")
        if len(body) <= bytes_max:
            return body
    raise PayloadTooLarge(f"The body is larger than {bytes_max} bytes.")


def _answer(verdict: Verdict) -> Response:
    receipt = verdict.receipt
    if receipt is None:  # pragma: no cover - accept() raises for every refusal
        raise TypeError(verdict.outcome)
    structlog.contextvars.bind_contextvars(outcome=_LOG_EVENTS[verdict.outcome])
    response = Response(receipt.body, receipt.status, mimetype="application/json")
    if receipt.is_replay:
        response.headers["Idempotent-Replayed"] = "true"
    return response
