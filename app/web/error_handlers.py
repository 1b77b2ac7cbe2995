"""Flask's error handlers: every error of the application, Flask's and webargs' included, gets the same error body."""

from typing import Any, Final

import structlog
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import RequestRedirect

from app import errors
from app.errors import Fault, Refusal
from app.web.problems import cause_of, render
from app.web.request_log import request_id
from app.wire.exact_json import pointer_token

_log = structlog.get_logger()

# What Werkzeug and webargs refuse as we do. Any other 4xx of theirs is a 400.
_REFUSALS: Final[dict[int, type[Refusal]]] = {
    404: errors.NotFound,
    413: errors.PayloadTooLarge,
    415: errors.UnsupportedMediaType,
    422: errors.SchemaValidationFailed,
}


def register(app: Flask) -> None:
    """Install the handlers."""
    app.before_request(_refuse_to_redirect)
    app.register_error_handler(Refusal, respond)
    app.register_error_handler(HTTPException, respond_to_framework)
    app.register_error_handler(Exception, _respond_to_crash)


def _refuse_to_redirect() -> None:
    """A path has one spelling. Flask's redirect to it would be HTML, and lead to the host that the caller names."""
    if isinstance(request.routing_exception, RequestRedirect):
        raise errors.NotFound


def respond(refusal: Refusal) -> Response:
    """The response to a refused request; its inner cause, if it has one, stands in the request's log line."""
    structlog.contextvars.bind_contextvars(error_code=refusal.code)
    if (cause := cause_of(refusal)) is not None:
        structlog.contextvars.bind_contextvars(cause=cause)
    status, headers, body = render(refusal, request.headers.get("Accept"), request_id())
    return Response(body, status, headers)


def respond_to_framework(error: HTTPException) -> Response:
    """Werkzeug's and webargs' refusals; webargs brings its messages along in `data`."""
    if error.code is None or error.code >= 500:
        return _respond_to_crash(error)
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        refusal = errors.MethodNotAllowed(f"This address takes {allowed}. /docs says what each is for.")
        refusal.headers = {"Allow": allowed}
        return respond(refusal)
    # Webargs sorts its messages by where the fault was: {"json": {"name": ["Too long."]}}.
    by_location = getattr(error, "data", {}).get("messages", {})
    faults = tuple(fault for messages in by_location.values() for fault in _faults_of(messages))
    if (kind := _REFUSALS.get(error.code)) is not None:
        return respond(kind(faults=faults))
    return respond(errors.BadRequest(str(error.description or error.name), faults=faults))


def _respond_to_crash(error: Exception) -> Response:
    _log.error("request_crashed", exc_info=error)
    return respond(errors.InternalError())


def _faults_of(messages: Any, pointer: str = "") -> list[Fault]:
    """Marshmallow's nested messages, flattened: {"name": ["Too long."]} → /name."""
    if isinstance(messages, dict):
        nested = [_faults_of(value, f"{pointer}/{pointer_token(key)}") for key, value in messages.items()]
        return [fault for faults in nested for fault in faults]
    texts = messages if isinstance(messages, list) else [messages]
    return [Fault("" if pointer == "/_schema" else pointer, str(text)) for text in texts]
