"""The counter of the data plane: single events and batches; turns HTTP into submissions and receipts into HTTP."""

from typing import Final

import structlog
from flask import Response, current_app, g, request
from flask_smorest import Blueprint

from app.credentials.policies import origin_of
from app.credentials.verification import Identity
from app.errors import BadRequest, Fault, OriginNotAllowed, Refusal, SchemaValidationFailed
from app.ingest.acceptance import DECIDED, Caller, Counter, Decided, Submission, accept, accepted
from app.ingest.batch.acceptance import BatchSubmission, accept_batch
from app.ingest.batch.body import NDJSON
from app.ingest.cors import ANSWER_HEADERS, PREFLIGHT_HEADERS, allowing
from app.ingest.envelope import Receipt
from app.ingest.openapi import BATCH_OPERATION, INGEST_OPERATION
from app.ingest.storage import LOG_EVENTS, Verdict
from app.rate_limits import Allowance
from app.telemetry import metrics
from app.web.request_body import check_media_type, read_bytes
from app.web.request_log import remote_address
from app.wire.exact_json import pointer_token

COUNTER: Final = "lariba.ingest"
# A page that is being left can send only what needs no preflight, so it shows its key in the query and calls its JSON
# text (docs/decisions/0015). Only browser keys may stand there: a server's would end up in the logs of proxies.
_KEY: Final = "key"
_TEXT: Final = "text/plain"
_JSON: Final = "application/json"
_NO_BROWSER_KEY: Final = (
    "In the query only a browser key is taken, and only from the pages that it is for. Send any other key in X-API-Key,"
    " and rotate it if it has stood in an address: proxies log those."
)

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
    if _is_key_in_query():
        # A form that is sent makes the answer a page, whose links would tell the address with the key.
        response.headers["Referrer-Policy"] = "no-referrer"
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
        media_type=lambda: _media_type(_JSON, NDJSON),
        read_body=lambda: read_bytes(counter().settings.batch_bytes_max),
    )
    receipt, allowance = accept_batch(submission, counter())
    structlog.contextvars.bind_contextvars(outcome="batch_replayed" if receipt.is_replay else "batch_accepted")
    return _respond(receipt, allowance)


def _caller() -> Caller:
    return Caller(
        key=request.args.get(_KEY) if _is_key_in_query() else request.headers.get("X-API-Key"),
        address=remote_address(),
        origin=origin_of(request.headers.get("Origin")),
        greet=_greet,
    )


def _greet(identity: Identity, deadline: float) -> None:
    g.body_owner = identity.workspace_id
    origin = origin_of(request.headers.get("Origin"))
    if origin is not None and counter().origins.is_allowed(identity, origin, deadline):
        g.allowed_origin = origin


def _is_key_in_query() -> bool:
    return _KEY in request.args and "X-API-Key" not in request.headers


def counter() -> Counter:
    """What the factory has laid on the counter of the app that serves this request."""
    value = current_app.extensions[COUNTER]
    if not isinstance(value, Counter):  # pragma: no cover - a wiring mistake, not a state
        raise TypeError(COUNTER)
    return value


def _read_body() -> bytes:
    _check_query()
    _media_type(_JSON)
    return read_bytes()


def _media_type(*accepted: str) -> str:
    """Which of `accepted` the headers announce; text, if a page may call its JSON so."""
    announced = check_media_type(*accepted, *([_TEXT] if _is_key_in_query() else []))
    return _JSON if announced == _TEXT else announced


def _check_query(*known: str) -> None:
    """A parameter that is unknown or came twice would be ignored in silence; and not every key may stand there."""
    if _is_key_in_query() and "allowed_origin" not in g:
        raise OriginNotAllowed(_NO_BROWSER_KEY)
    faults = []
    for name in request.args:
        if name not in (_KEY, *known):
            faults.append(Fault(f"/{pointer_token(name)}", "This parameter is not known."))
        elif len(request.args.getlist(name)) > 1:
            faults.append(Fault(f"/{name}", "This parameter is given more than once."))
    if _KEY in request.args and not _is_key_in_query():
        faults.append(Fault(f"/{_KEY}", "The key is in X-API-Key already; it is taken from one place only."))
    if faults:
        raise SchemaValidationFailed(faults=tuple(faults))


def _flag(name: str) -> bool:
    """Whether a parameter of the query is set; there may be no unknown one beside it."""
    _check_query(name)
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
