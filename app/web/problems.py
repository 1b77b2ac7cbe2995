"""Turns an error into a status and a body: one table, one shape, one handler for the whole product.

The body is `{"error": {"code", "message", "request_id", "retryable", "details"?}}`, or the same facts as RFC 9457
problem details when the caller asks for application/problem+json. Statuses are given here and nowhere else.
"""

from typing import Any, Final

import structlog
from flask import Flask, Response, json, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge
from werkzeug.routing import RequestRedirect

from app import errors
from app.errors import Fault, Refusal
from app.web.request_log import request_id
from app.wire.exact_json import pointer_token

_log = structlog.get_logger()

STATUSES: Final[dict[type[Refusal], int]] = {
    errors.BadRequest: 400,
    errors.InvalidSourceKey: 401,
    errors.InvalidManagementToken: 401,
    errors.InvalidMetricsToken: 401,
    errors.SourceDisabled: 403,
    errors.WorkspaceSuspended: 403,
    errors.SourceMismatch: 403,
    errors.EnvironmentMismatch: 403,
    errors.EventTypeNotAllowed: 403,
    errors.OriginNotAllowed: 403,
    errors.AddressNotAllowed: 403,
    errors.InsufficientScope: 403,
    errors.NotFound: 404,
    errors.BodyTimeout: 408,
    errors.Conflict: 409,
    errors.CredentialAlreadyShown: 409,
    errors.DuplicateEvent: 409,
    errors.IdempotencyInProgress: 409,
    errors.LengthRequired: 411,
    errors.PreconditionFailed: 412,
    errors.PayloadTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.UnsupportedContentEncoding: 415,
    errors.IdempotencyKeyReused: 422,
    errors.SchemaValidationFailed: 422,
    errors.TimestampOutOfRange: 422,
    errors.BatchRejected: 422,
    errors.PreconditionRequired: 428,
    errors.RateLimitExceeded: 429,
    errors.UnsupportedTransferCoding: 501,
    errors.StorageUnavailable: 503,
    errors.OutcomeUnknown: 503,
}

# What the framework itself refuses. Anything else below 500 is a bad_request with its own status.
FRAMEWORK_CODES: Final[dict[int, str]] = {
    404: errors.NotFound.code,
    405: "method_not_allowed",
    413: errors.PayloadTooLarge.code,
    415: errors.UnsupportedMediaType.code,
    422: errors.SchemaValidationFailed.code,
}
INTERNAL_ERROR: Final = "internal_error"

_CHALLENGES: Final[dict[type[Refusal], str]] = {
    errors.InvalidSourceKey: "ApiKey",
    errors.InvalidManagementToken: "Bearer",
    errors.InvalidMetricsToken: "Bearer",
}
_POINTERS_MAX: Final = 100


def register(app: Flask) -> None:
    """Let every error of `app`, Flask's own included, leave by this door."""
    app.before_request(_refuse_to_redirect)
    app.register_error_handler(Refusal, _refused)
    app.register_error_handler(HTTPException, _refused_by_framework)
    app.register_error_handler(Exception, _crashed)


def _refuse_to_redirect() -> None:
    """A path has one spelling. Flask's redirect to it would be HTML, and lead to whatever host the caller names."""
    if isinstance(request.routing_exception, RequestRedirect):
        raise errors.NotFound


def _refused(refusal: Refusal) -> Response:
    response = answer(
        STATUSES[type(refusal)],
        refusal.code,
        refusal.message,
        retryable=refusal.retryable,
        faults=refusal.faults,
    )
    response.headers.update(refusal.headers)
    if refusal.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(refusal.retry_after_seconds)
    if refusal.accept_encoding is not None:
        response.headers["Accept-Encoding"] = refusal.accept_encoding
    if (scheme := _CHALLENGES.get(type(refusal))) is not None:
        response.headers["WWW-Authenticate"] = f'{scheme} realm="lariba"'
    if refusal.__cause__ is not None:
        _log.warning("request_refused_because", cause=_one_line(refusal.__cause__))
    return response


def _refused_by_framework(error: HTTPException) -> Response:
    """Werkzeug's and webargs' refusals; webargs brings its messages along in `data`."""
    status = error.code or 500
    if status >= 500:
        return _crashed(error)
    # Webargs sorts its messages by where the fault was: {"json": {"name": ["Too long."]}}.
    by_place = getattr(error, "data", {}).get("messages", {})
    message = _framework_message(error)
    faults = tuple(fault for messages in by_place.values() for fault in _faults_of(messages))
    response = answer(status, FRAMEWORK_CODES.get(status, errors.BadRequest.code), message, faults=faults)
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = _allowed(error)
    return response


def _crashed(error: Exception) -> Response:
    _log.error("request_crashed", exc_info=error)
    message = "Something went wrong on our side; nothing was stored. Report the request_id to the operator."
    return answer(500, INTERNAL_ERROR, message)


def answer(
    status: int, code: str, message: str, *, retryable: bool = False, faults: tuple[Fault, ...] = ()
) -> Response:
    """The one error body, in the shape that the caller accepts."""
    structlog.contextvars.bind_contextvars(error_code=code)
    facts: dict[str, Any] = {
        "code": code,
        "message": message,
        "request_id": request_id(),
        "retryable": retryable,
    }
    details = [{"pointer": fault.pointer, "message": fault.message} for fault in faults[:_POINTERS_MAX]]
    if details:
        facts["details"] = details
    if not _wants_problem_details():
        return Response(json.dumps({"error": facts}), status, mimetype="application/json")
    problem = {
        "type": f"urn:lariba:error:{code}",
        "title": code,
        "status": status,
        "detail": facts.pop("message"),
    }
    return Response(json.dumps(problem | facts), status, mimetype="application/problem+json")


def _wants_problem_details() -> bool:
    best = request.accept_mimetypes.best_match(["application/json", "application/problem+json"])
    return best == "application/problem+json"


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


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
