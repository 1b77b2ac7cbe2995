"""What the OpenAPI document says in the same words everywhere: the error body, error answers and headers.

Both planes describe themselves by these functions, and a component stands here once; app/api.py registers them.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from app import errors
from app.errors import Refusal
from app.web.problems import STATUSES

Document = dict[str, Any]

_JSON: Final = "application/json"
_PROBLEM: Final = "application/problem+json"
_REQUEST_ID: Final = "req_0f8fad5bd9cb469fa165708677289502"

SCHEMAS: Final[Mapping[str, Document]] = {
    "Fault": {
        "type": "object",
        "description": "One thing wrong with a request.",
        "required": ["pointer", "message"],
        "properties": {
            "pointer": {
                "type": "string",
                "description": "A JSON pointer (RFC 6901) into the body, or `/name` of a parameter; empty: the whole.",
            },
            "message": {"type": "string"},
        },
    },
    "ErrorFacts": {
        "type": "object",
        "required": ["code", "message", "request_id", "retryable"],
        "properties": {
            "code": {"type": "string", "pattern": "^[a-z_]+$", "description": "Stable: match on it."},
            "message": {"type": "string", "description": "For people, and may change."},
            "request_id": {"type": "string", "description": "Also the header X-Request-ID."},
            "retryable": {"type": "boolean", "description": "Whether the same request can succeed later."},
            "details": {"type": "array", "items": {"$ref": "#/components/schemas/Fault"}},
        },
    },
    "ErrorBody": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"$ref": "#/components/schemas/ErrorFacts"}},
    },
    "ProblemDetails": {
        "type": "object",
        "description": "The same facts as RFC 9457 has them, for `Accept: application/problem+json`.",
        "required": ["type", "title", "status", "detail", "code", "request_id", "retryable"],
        "properties": {
            "type": {"type": "string", "pattern": "^urn:lariba:error:[a-z_]+$"},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string"},
            "code": {"type": "string", "pattern": "^[a-z_]+$"},
            "request_id": {"type": "string"},
            "retryable": {"type": "boolean"},
            "details": {"type": "array", "items": {"$ref": "#/components/schemas/Fault"}},
        },
    },
}

_PATH: Final = {"type": "string", "format": "uri-reference"}
_SECONDS: Final = {"type": "integer", "minimum": 0}
# By name: (always there where it is documented, what it says, its schema).
_HEADERS: Final[Mapping[str, tuple[bool, str, Document]]] = {
    "X-Request-ID": (
        True,
        "The caller's own X-Request-ID if it has 1 to 128 of A-Z a-z 0-9 . _ : -, else ours.",
        {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
    ),
    "Cache-Control": (True, "Nothing of this API is to be kept by a cache.", {"type": "string"}),
    "ETag": (
        True,
        "The object's state, for If-Match.",
        {"type": "string", "pattern": '^"[0-9a-f]+"$'},
    ),
    "Location": (True, "The new object's path.", _PATH),
    "Link": (
        True,
        "RFC 8288: rel=first is this list's beginning with the same query, rel=next the next page; none at the end.",
        {"type": "string"},
    ),
    "Retry-After": (True, "Seconds to wait before the same request is worth a try.", _SECONDS),
    "WWW-Authenticate": (True, "The kind of credential that this takes (RFC 9110 §11.6.1).", {"type": "string"}),
    "Idempotent-Replayed": (
        False,
        "`true` if an earlier request with this Idempotency-Key was carried out, and this one changed nothing.",
        {"type": "string", "const": "true"},
    ),
    "RateLimit-Policy": (
        False,
        "The limits of the key or token and of its workspace: q events, or requests, in w seconds.",
        {"type": "string"},
    ),
    "RateLimit": (
        False,
        "What is left of them: r events, or requests; after t seconds without one all are.",
        {"type": "string"},
    ),
    "Accept-Encoding": (False, "There if the Content-Encoding was the reason: what is taken.", {"type": "string"}),
}

HEADERS: Final[Mapping[str, Document]] = {
    name: {"description": description, "required": is_required, "schema": schema}
    for name, (is_required, description, schema) in _HEADERS.items()
}
IDEMPOTENCY_KEY: Final = {
    "type": "string",
    "pattern": r'^(?:[!#-+\--~][!-+\--~]{0,254}|"(?:[!#-\[\]-~]|\\["\\]){1,255}")$',
}
"""What an Idempotency-Key looks like, bare or as a quoted string."""

# Of one status with several codes, only some may bring it.
_SOMETIMES: Final = {"Retry-After": HEADERS["Retry-After"] | {"required": False}}


def headers(*names: str) -> Document:
    """Response headers by reference; X-Request-ID is on every answer."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-ID", *names)}


def examples() -> dict[str, Document]:
    """An error body for every code, by code."""
    return {refusal.code: _example(refusal) for refusal in reversed(STATUSES)}


def refusal_answers(
    refusals: Iterable[type[Refusal]], *further_headers: str, notes: Mapping[str, str] | None = None
) -> Document:
    """The error answers of an operation by status; `notes` says by code what is special about it there."""
    by_status: dict[int, dict[str, type[Refusal]]] = {}
    for refusal in refusals:
        by_status.setdefault(STATUSES[refusal], {}).setdefault(refusal.code, refusal)
    return {
        str(status): {
            "description": "\n\n".join(
                f"`{code}`: {(notes or {}).get(code, by_code[code]().message)}" for code in by_code
            ),
            "headers": _headers_of(list(by_code.values())) | headers(*further_headers),
            "content": {
                _JSON: {
                    "schema": {"$ref": "#/components/schemas/ErrorBody"},
                    "examples": {code: {"$ref": f"#/components/examples/{code}"} for code in by_code},
                },
                _PROBLEM: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}},
            },
        }
        for status, by_code in sorted(by_status.items())
    }


def _headers_of(refusals: list[type[Refusal]]) -> Document:
    found: Document = {}
    says_when = [refusal.retryable for refusal in refusals]
    if any(says_when):
        found |= headers("Retry-After") if all(says_when) else _SOMETIMES
    if any(STATUSES[refusal] == 401 for refusal in refusals):
        found |= headers("WWW-Authenticate")
    if any(issubclass(refusal, errors.UnsupportedMediaType) for refusal in refusals):
        found |= headers("Accept-Encoding")
    return found


def _example(refusal: type[Refusal]) -> Document:
    facts: Document = {
        "code": refusal.code,
        "message": refusal().message,
        "request_id": _REQUEST_ID,
        "retryable": refusal.retryable,
    }
    if refusal is errors.SchemaValidationFailed:
        facts["details"] = [{"pointer": "/name", "message": "Missing data for required field."}]
    if refusal is errors.BatchRejected:
        facts["details"] = [{"pointer": "/events/17/event_type", "message": "Missing data for required field."}]
    return {"value": {"error": facts}}
