"""Flask's error handlers: every error of the application, Flask's and webargs' included, gets the same error body."""

from typing import Any, Final

import structlog
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge
from werkzeug.routing import RequestRedirect

from app import errors
from app.errors import Fault, Refusal
from app.web.problems import Problem, cause_of, render, render_problem
from app.web.request_log import request_id
from app.wire.exact_json import pointer_token

_log = structlog.get_logger()

# What the framework itself refuses. Anything else below 500 is a bad_request with its own status.
FRAMEWORK_CODES: Final[dict[int, str]] = {
    404: errors.NotFound.code,
    405: "method_not_allowed",
    413: errors.PayloadTooLarge.code,
    415: errors.UnsupportedMediaType.code,
    422: errors.SchemaValidationFailed.code,
}
INTERNAL_ERROR: Final = "internal_error"


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
    """The response to a refused request; logs its inner cause, if it has one."""
    structlog.contextvars.bind_contextvars(error_code=refusal.code)
    if (cause := cause_of(refusal)) is not None:
        _log.warning("request_refused_because", cause=cause)
    status, headers, body = render(refusal, request.headers.get("Accept"), request_id())
    return Response(body, status, headers)


def respond_to_framework(error: HTTPException) -> Response:
    """Werkzeug's and webargs' refusals; webargs brings its messages along in `data`."""
    status = error.code or 500
    if status >= 500:
        return _respond_to_crash(error)
    # Webargs sorts its messages by where the fault was: {"json": {"name": ["Too long."]}}.
    by_location = getattr(error, "data", {}).get("messages", {})
    faults = tuple(fault for messages in by_location.values() for fault in _faults_of(messages))
    code = FRAMEWORK_CODES.get(status, errors.BadRequest.code)
    response = _respond_with(Problem(status, code, _framework_message(error), faults=faults))
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = _allowed(error)
    return response


def _respond_to_crash(error: Exception) -> Response:
    _log.error("request_crashed", exc_info=error)
    message = "Something went wrong on our side; nothing was stored. Report the request_id to the operator."
    return _respond_with(Problem(500, INTERNAL_ERROR, message))


def _respond_with(problem: Problem) -> Response:
    structlog.contextvars.bind_contextvars(error_code=problem.code)
    headers, body = render_problem(problem, request.headers.get("Accept"), request_id())
    return Response(body, problem.status, headers)


def _framework_message(error: HTTPException) -> str:
    if isinstance(error, RequestEntityTooLarge):
        return errors.PayloadTooLarge().message
    if isinstance(error, MethodNotAllowed):
        return f"This address takes {_allowed(error)}. /docs says what each is for."
    if error.code == 404:
        return errors.NotFound().message
    if error.code == 422:
        return errors.SchemaValidationFailed().message
    return str(error.description or error.name)


def _allowed(error: MethodNotAllowed) -> str:
    return ", ".join(sorted(error.valid_methods or ()))


def _faults_of(messages: Any, pointer: str = "") -> list[Fault]:
    """Marshmallow's nested messages, flattened: {"name": ["Too long."]} → /name."""
    if isinstance(messages, dict):
        nested = [_faults_of(value, f"{pointer}/{pointer_token(key)}") for key, value in messages.items()]
        return [fault for faults in nested for fault in faults]
    texts = messages if isinstance(messages, list) else [messages]
    return [Fault("" if pointer == "/_schema" else pointer, str(text)) for text in texts]
