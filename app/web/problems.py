"""Turns a refusal into a status, headers and a body. Knows no framework, so any entry point can answer with it.

The body is `{"error": {"code", "message", "request_id", "retryable", "details"?}}`, or the same facts as RFC 9457
problem details if the caller prefers application/problem+json. No other module gives a refusal its status.
"""

import json
from functools import lru_cache
from typing import Any, Final

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from app import errors
from app.errors import Fault, Refusal
from app.telemetry.logs import redact

Headers = list[tuple[str, str]]

JSON: Final = "application/json"
PROBLEM_JSON: Final = "application/problem+json"

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
    errors.MethodNotAllowed: 405,
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
    errors.RangeNotSatisfiable: 416,
    errors.WrongCell: 421,
    errors.IdempotencyKeyReused: 422,
    errors.SchemaValidationFailed: 422,
    errors.QueryTooBroad: 422,
    errors.TimestampOutOfRange: 422,
    errors.BatchRejected: 422,
    errors.PreconditionRequired: 428,
    errors.RateLimitExceeded: 429,
    errors.InternalError: 500,
    errors.UnsupportedTransferCoding: 501,
    errors.NotConfigured: 501,
    errors.StorageUnavailable: 503,
    errors.OutcomeUnknown: 503,
}

_CHALLENGES: Final[dict[type[Refusal], str]] = {
    errors.InvalidSourceKey: "ApiKey",
    errors.InvalidManagementToken: "Bearer",
    errors.InvalidMetricsToken: "Bearer",
}
_FAULTS_MAX: Final = 100
_CAUSE_CHARACTERS_MAX: Final = 500
# Servers let 400 KB through, which take a second to parse, on an event loop too. 200 characters take 0.4 ms, browsers
# send 140. A longer header counts as none: RFC 9110 §12.5.1 lets a server disregard it.
_ACCEPT_CHARACTERS_MAX: Final = 200


def render(refusal: Refusal, accept: str | None, request_id: str) -> tuple[int, Headers, bytes]:
    """The response to a refused request; `accept` is its Accept header. The caller logs."""
    status = STATUSES[type(refusal)]
    facts: dict[str, Any] = {
        "code": refusal.code,
        "message": refusal.message,
        "request_id": request_id,
        "retryable": refusal.retryable,
    }
    if refusal.faults:
        facts["details"] = [_detail(fault) for fault in refusal.faults[:_FAULTS_MAX]]
    media_type = JSON if accept is None or len(accept) > _ACCEPT_CHARACTERS_MAX else _preferred(accept)
    if media_type == PROBLEM_JSON:
        problem = {"type": f"urn:lariba:error:{refusal.code}", "title": refusal.code, "status": status}
        document = problem | {"detail": facts.pop("message")} | facts
    else:
        document = {"error": facts}
    body = json.dumps(document).encode()
    headers = [("Content-Type", media_type), ("Content-Length", str(len(body))), ("X-Request-ID", request_id)]
    return status, headers + _headers_of(refusal), body


@lru_cache(maxsize=1_024)
def _preferred(accept: str) -> str:
    return parse_accept_header(accept, MIMEAccept).best_match([JSON, PROBLEM_JSON], default=JSON)


def _detail(fault: Fault) -> dict[str, Any]:
    detail: dict[str, Any] = {"pointer": fault.pointer, "message": fault.message}
    if fault.offset is not None:
        detail |= {"offset": fault.offset, "length": fault.length or 0}
    if fault.suggestions:
        detail["suggestions"] = list(fault.suggestions)
    return detail


def _headers_of(refusal: Refusal) -> Headers:
    headers = list(refusal.headers.items())
    if refusal.retry_after_seconds is not None:
        headers.append(("Retry-After", str(refusal.retry_after_seconds)))
    if refusal.accept_encoding is not None:
        headers.append(("Accept-Encoding", refusal.accept_encoding))
    if (scheme := _CHALLENGES.get(type(refusal))) is not None:
        headers.append(("WWW-Authenticate", f'{scheme} realm="lariba"'))
    return headers


def cause_of(refusal: Refusal) -> str | None:
    """The inner error behind a refusal, as one line for the log, without secrets; None if there is none."""
    cause = refusal.__cause__
    if cause is None:
        return None
    # Before the cut, which could leave half a password that is not recognised as one.
    text: str = redact(None, "", {"cause": f"{type(cause).__name__}: {cause}"})["cause"]
    return " ".join(text.split())[:_CAUSE_CHARACTERS_MAX]
