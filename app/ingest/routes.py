"""The routes of the data plane: single events, batches, and their receipts. Flask's requests in, receipts out."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import structlog
from flask import Response, current_app, g, request
from flask_smorest import Blueprint

from app.credentials.policies import origin_of
from app.credentials.verification import Identity
from app.errors import BadRequest, Fault, OriginNotAllowed, SchemaValidationFailed
from app.idempotency.header import is_idempotency_key
from app.ingest.acceptance import Accepted, Client, Incoming, accept, prove_key
from app.ingest.batch.body import NDJSON
from app.ingest.batch.incoming import IncomingBatch
from app.ingest.cors import ANSWER_HEADERS, PREFLIGHT_HEADERS, allowing
from app.ingest.event import IncomingEvent
from app.ingest.openapi import (
    BATCH_OPERATION,
    EVENT_ID_IN_PATH,
    INGEST_OPERATION,
    RECEIPT_OF_EVENT_OPERATION,
    RECEIPT_OF_REQUEST_OPERATION,
)
from app.ingest.receipts import Receipts, StoredReceipt
from app.ingest.services import EXTENSION, IngestServices
from app.ingest.waits import BlockingWaits, run_blocking
from app.web.request_body import check_media_type, read_bytes
from app.web.request_log import remote_address
from app.wire.exact_json import pointer_token

# A page that is being left can send only what needs no preflight, so it shows its key in the query and calls its JSON
# text (docs/decisions/0015). Only browser keys are taken from there: a server's key would get into the logs of proxies.
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
    """What a browser asks before it lets a web page send; Flask answers any other OPTIONS."""
    origin = origin_of(request.headers.get("Origin"))
    if request.method != "OPTIONS" or origin is None or "Access-Control-Request-Method" not in request.headers:
        return None
    structlog.contextvars.bind_contextvars(outcome="preflight_refused")
    _services().origins.require_known(origin)
    structlog.contextvars.bind_contextvars(outcome="preflight_answered")
    return Response(status=204, headers=allowing(origin) | PREFLIGHT_HEADERS)


@blueprint.after_request
def let_the_page_read(response: Response) -> Response:
    """The answer and every refusal, if the key is for the page's origin."""
    if (origin := g.get("allowed_origin")) is not None:
        response.headers.update(allowing(origin) | ANSWER_HEADERS)
    if _is_key_in_query():
        # A submitted form makes the answer a page, whose links would send the address, with the key, as their referrer.
        response.headers["Referrer-Policy"] = "no-referrer"
    return response


@blueprint.route("/v1/events/ingest", methods=["POST"])
@blueprint.doc(**INGEST_OPERATION)
def ingest_event() -> Response:
    """Store one event, exactly once."""
    structlog.contextvars.bind_contextvars(outcome="event_refused")
    services = _services()
    waits = BlockingWaits(_read_body, services.committer)
    return _respond(IncomingEvent(_client(), request.headers.get("Idempotency-Key"), waits, services))


@blueprint.route("/v1/events/ingest/batch", methods=["POST"])
@blueprint.doc(**BATCH_OPERATION)
def ingest_batch() -> Response:
    """Store up to 1,000 events with one commit; a verdict for each, in order."""
    structlog.contextvars.bind_contextvars(outcome="batch_refused")
    services = _services()
    waits = BlockingWaits(lambda: read_bytes(services.settings.batch_bytes_max), services.committer)
    return _respond(IncomingBatch(_client(), request.headers.get("Idempotency-Key"), _read_batch_head, waits, services))


@blueprint.route("/v1/events/ingest/<path:event_id>", methods=["GET"], parameters=[EVENT_ID_IN_PATH])
@blueprint.doc(**RECEIPT_OF_EVENT_OPERATION)
def read_receipt(event_id: str) -> Response:
    """Ask whether an event was stored."""
    _refuse_parameters()
    return _stored(lambda receipts: receipts.of_event(event_id))


@blueprint.route("/v1/events/ingest", methods=["GET"])
@blueprint.doc(**RECEIPT_OF_REQUEST_OPERATION)
def read_receipt_of_request() -> Response:
    """Ask what a request with an Idempotency-Key was answered."""
    _refuse_parameters("idempotency_key")
    key = request.args.get("idempotency_key", "")
    if not is_idempotency_key(key):
        raise SchemaValidationFailed(faults=(Fault("/idempotency_key", "Must be 1 to 255 visible ASCII characters."),))
    return _stored(lambda receipts: receipts.of_request(key))


def _stored(look_up: Callable[[Receipts], StoredReceipt]) -> Response:
    """The receipt; a request for one counts as an event against the key's rate."""
    services = _services()
    client = Client(
        key=request.headers.get("X-API-Key"),
        address=remote_address(),
        origin=origin_of(request.headers.get("Origin")),
    )
    deadline = time.monotonic() + services.settings.storage_deadline_seconds
    identity = prove_key(client.key, services, deadline)
    g.body_owner = identity.workspace_id
    allowance = services.rate_limiter.admit(identity, 1)
    found = look_up(Receipts(services, identity, client))
    response = Response(msgspec.json.encode(found), mimetype=_JSON)
    response.headers.update(allowance.headers)
    response.cache_control.no_store = True
    return response


def _client() -> Client:
    return Client(
        key=request.args.get(_KEY) if _is_key_in_query() else request.headers.get("X-API-Key"),
        address=remote_address(),
        origin=origin_of(request.headers.get("Origin")),
        on_authenticated=_on_authenticated,
    )


def _on_authenticated(identity: Identity, deadline: float) -> None:
    g.body_owner = identity.workspace_id
    origin = origin_of(request.headers.get("Origin"))
    if origin is not None and _services().origins.is_allowed(identity, origin, deadline):
        g.allowed_origin = origin


def _is_key_in_query() -> bool:
    return _KEY in request.args and "X-API-Key" not in request.headers


def _services() -> IngestServices:
    """What the factory has put into the app that serves this request."""
    value = current_app.extensions[EXTENSION]
    if not isinstance(value, IngestServices):  # pragma: no cover - a wiring mistake, not a state
        raise TypeError(EXTENSION)
    return value


def _read_body() -> bytes:
    _check_query()
    _media_type(_JSON)
    return read_bytes()


def _read_batch_head() -> tuple[bool, str]:
    """Whether the batch is atomic, and its media type."""
    return _flag("atomic"), _media_type(_JSON, NDJSON)


def _media_type(*accepted: str) -> str:
    """Which of `accepted` the headers announce; text, if a page may call its JSON so."""
    announced = check_media_type(*accepted, *([_TEXT] if _is_key_in_query() else []))
    return _JSON if announced == _TEXT else announced


def _check_query(*known: str) -> None:
    """Refuse parameters that are unknown or come twice, and keys that may not be in the query."""
    if _is_key_in_query() and "allowed_origin" not in g:
        raise OriginNotAllowed(_NO_BROWSER_KEY)
    faults = []
    if _KEY in request.args and not _is_key_in_query():
        faults.append(Fault(f"/{_KEY}", "The key is in X-API-Key already; it is taken from one place only."))
    _refuse_parameters(_KEY, *known, faults=faults)


def _refuse_parameters(*known: str, faults: Sequence[Fault] = ()) -> None:
    """Refuse parameters that are unknown or come twice; and other `faults`, if there are any."""
    found = list(faults)
    for name in request.args:
        if name not in known:
            found.append(Fault(f"/{pointer_token(name)}", "This parameter is not known."))
        elif len(request.args.getlist(name)) > 1:
            found.append(Fault(f"/{name}", "This parameter is given more than once."))
    if found:
        raise SchemaValidationFailed(faults=tuple(found))


def _flag(name: str) -> bool:
    """Whether a parameter of the query is set; there may be no unknown one beside it."""
    _check_query(name)
    given = request.args.get(name, "false").lower()
    if given not in ("true", "false", "1", "0"):
        raise BadRequest(f"{name} must be true or false.")
    return given in ("true", "1")


def _respond(incoming: Incoming[Any]) -> Response:
    accepted = run_blocking(accept(incoming, _services()))
    structlog.contextvars.bind_contextvars(outcome=accepted.log_event)
    return _response(accepted)


def _response(accepted: Accepted) -> Response:
    receipt = accepted.receipt
    return Response(receipt.body, receipt.status, accepted.headers, mimetype="application/json")
