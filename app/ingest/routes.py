"""The counter of the data plane: single events and batches; turns HTTP into submissions and receipts into HTTP."""

from typing import Final

import structlog
from flask import Response, current_app, g, request
from flask_smorest import Blueprint

from app import metrics
from app.credentials import Identity
from app.errors import BadRequest, Fault, Refusal, SchemaValidationFailed
from app.exact_json import pointer_token
from app.ingest.acceptance import DECIDED, Caller, Counter, Decided, Submission, accept, accepted
from app.ingest.batch.acceptance import BatchSubmission, accept_batch
from app.ingest.batch.body import NDJSON
from app.ingest.cors import ANSWER_HEADERS, PREFLIGHT_HEADERS, allowing
from app.ingest.envelope import Receipt
from app.ingest.openapi import BATCH_OPERATION, INGEST_OPERATION
from app.ingest.storage import LOG_EVENTS, Verdict
from app.key_policies import origin_of
from app.rate_limits import Allowance
from app.request_body import check_media_type, read_bytes
from app.request_log import remote_address

COUNTER: Final = "lariba.ingest"

blueprint = Blueprint("ingest", __name__, description="Send events (source key in X-API-Key)")


@blueprint.before_request
def answer_preflight() -> Response | None:
    """What a browser asks before it lets a web page send; any other OPTIONS is Flask's matter."""
    origin = origin_of(request.headers.get("Origin"))
    if request.method != "OPTIONS" or origin is None or "Access-Control-Request-Method" not in request.headers:
        return None
    structlog.contextvars.bind_contextvars(outcome="preflight_refused")
    counter().origins.require_known(origin)
    structlog.contextvars.bind_contextvars(outcome="preflight_answered")
    return Response(status=204, headers=allowing(origin) | PREFLIGHT_HEADERS)


@blueprint.after_request
def let_the_page_read(response: Response) -> Response:
    """The answer and every refusal, if the key is for the page's origin."""
    if (origin := g.get("allowed_origin")) is not None:
        response.headers.update(allowing(origin) | ANSWER_HEADERS)
    return response


@blueprint.route("/v1/events/ingest", methods=["POST"])
@blueprint.doc(**INGEST_OPERATION)
def ingest_event() -> Response:
    """Store one event, exactly once."""
    structlog.contextvars.bind_contextvars(outcome="event_refused")
    if (decided := request.environ.get(DECIDED)) is not None:
        return _decided(decided)
    submission = Submission(
        caller=_caller(),
        idempotency_header=request.headers.get("Idempotency-Key"),
        read_body=_read_body,
    )
    return _answer(*accept(submission, counter()))


@blueprint.route("/v1/events/ingest/batch", methods=["POST"])
@blueprint.doc(**BATCH_OPERATION)
def ingest_batch() -> Response:
    """Store up to 1,000 events with one commit; a verdict for each, in order."""
    structlog.contextvars.bind_contextvars(outcome="batch_refused")
    submission = BatchSubmission(
        caller=_caller(),
        idempotency_header=request.headers.get("Idempotency-Key"),
        is_atomic=lambda: _flag("atomic"),
        media_type=lambda: check_media_type("application/json", NDJSON),
        read_body=lambda: read_bytes(counter().settings.batch_bytes_max),
    )
    receipt, allowance = accept_batch(submission, counter())
    structlog.contextvars.bind_contextvars(outcome="batch_replayed" if receipt.is_replay else "batch_accepted")
    return _respond(receipt, allowance)


def _caller() -> Caller:
    return Caller(
        key_header=request.headers.get("X-API-Key"),
        address=remote_address(),
        origin=origin_of(request.headers.get("Origin")),
        greet=_greet,
    )


def _greet(identity: Identity, deadline: float) -> None:
    origin = origin_of(request.headers.get("Origin"))
    if origin is not None and counter().origins.is_allowed(identity, origin, deadline):
        g.allowed_origin = origin


def counter() -> Counter:
    """What the factory has laid on the counter of the app that serves this request."""
    value = current_app.extensions[COUNTER]
    if not isinstance(value, Counter):  # pragma: no cover - a wiring mistake, not a state
        raise TypeError(COUNTER)
    return value


def _read_body() -> bytes:
    check_media_type()
    return read_bytes()


def _flag(name: str) -> bool:
    """The one parameter that a query may hold: a typing error must not leave it unset in silence."""
    faults = [Fault(f"/{pointer_token(each)}", "This parameter is not known.") for each in request.args if each != name]
    if len(request.args.getlist(name)) > 1:
        faults.append(Fault(f"/{name}", "This parameter is given more than once."))
    if faults:
        raise SchemaValidationFailed(faults=tuple(faults))
    given = request.args.get(name, "false").lower()
    if given not in ("true", "false", "1", "0"):
        raise BadRequest(f"{name} must be true or false.")
    return given in ("true", "1")


def _decided(decided: Decided | Exception) -> Response:
    if isinstance(decided, Exception):
        raise decided
    metrics.KEY_LOOKUPS.labels("memory").inc()
    structlog.contextvars.bind_contextvars(key=decided.identity.public_id)
    try:
        verdict = accepted(decided.decision, decided.identity, _caller(), counter().database)
    except Refusal as refusal:
        counter().refusals.count(decided.identity, refusal)
        raise
    return _answer(verdict, decided.allowance)


def _answer(verdict: Verdict, allowance: Allowance | None) -> Response:
    if verdict.receipt is None:  # pragma: no cover - accept() raises for every refusal
        raise TypeError(verdict.outcome)
    structlog.contextvars.bind_contextvars(outcome=LOG_EVENTS[verdict.outcome])
    return _respond(verdict.receipt, allowance)


def _respond(receipt: Receipt, allowance: Allowance | None) -> Response:
    response = Response(receipt.body, receipt.status, mimetype="application/json")
    if receipt.is_replay:
        response.headers["Idempotent-Replayed"] = "true"
    if allowance is not None:
        response.headers.update(allowance.headers)
    return response
