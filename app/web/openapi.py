"""What the OpenAPI document says in the same words everywhere: error bodies, headers and parameters.

Operations name headers and examples, and apispec turns a name into a reference to the component of app/api.py.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from marshmallow import fields

from app import errors
from app.errors import Fault, Refusal
from app.web.problems import JSON, PROBLEM_JSON, STATUSES, render
from app.web.schema_fields import OutputSchema

Document = dict[str, Any]

BODY_REFUSALS: Final[tuple[type[Refusal], ...]] = (
    errors.BadRequest,
    errors.BodyTimeout,
    errors.LengthRequired,
    errors.PayloadTooLarge,
    errors.UnsupportedMediaType,
    errors.UnsupportedTransferCoding,
)
"""What every operation that reads a body may refuse."""
_IDEMPOTENCY_KEY: Final = {
    "type": "string",
    "pattern": r'^(?:[!#-+\--~][!-+\--~]{0,254}|"(?:[!#-\[\]-~]|\\["\\]){1,255}")$',
}
_CODE: Final = {"pattern": "^[a-z_]+$", "description": "Stable: match on it."}


class FaultSchema(OutputSchema):
    """A member of `details`."""

    class Meta(OutputSchema.Meta):
        description = "One thing wrong with a request."

    pointer = fields.String(
        required=True,
        metadata={
            "description": "A JSON pointer (RFC 6901) into the body, or `/name` of a parameter; empty: the whole."
        },
    )
    message = fields.String(required=True)
    offset = fields.Integer(
        metadata={
            "description": "Where the fault begins within a query, in characters (Unicode code points) from its start."
        }
    )
    length = fields.Integer(
        metadata={"description": "How many characters of the query are meant: 0 where something is missing."}
    )
    suggestions = fields.List(fields.String(), metadata={"description": "What may have been meant, the nearest first."})


class _ErrorSchema(OutputSchema):
    """What both error bodies say, see problems.py."""

    code = fields.String(required=True, metadata=_CODE)
    request_id = fields.String(required=True, metadata={"description": "Also the header X-Request-ID."})
    retryable = fields.Boolean(required=True, metadata={"description": "Whether the same request can succeed later."})
    details = fields.List(fields.Nested(FaultSchema))


class ErrorFactsSchema(_ErrorSchema):
    """The `error` of an error body."""

    message = fields.String(required=True, metadata={"description": "For people, and may change."})


class ErrorBodySchema(OutputSchema):
    """The error body, unless the caller prefers problem details."""

    error = fields.Nested(ErrorFactsSchema, required=True)


class ProblemDetailsSchema(_ErrorSchema):
    """The error body of RFC 9457."""

    class Meta(OutputSchema.Meta):
        description = "The same facts as RFC 9457 has them, for `Accept: application/problem+json`."

    type = fields.String(required=True, metadata={"pattern": "^urn:lariba:error:[a-z_]+$"})
    title = fields.String(required=True)
    status = fields.Integer(required=True, metadata={"minimum": 400, "maximum": 599})
    detail = fields.String(required=True)


_TEXT: Final = {"type": "string"}


def _header(description: str, schema: Document = _TEXT, *, required: bool = True) -> Document:
    """`required`: it is on every response for which it is documented."""
    return {"description": description, "required": required, "schema": schema}


HEADERS: Final[Mapping[str, Document]] = {
    "X-Request-ID": _header(
        "The caller's own X-Request-ID if it has 1 to 128 of A-Z a-z 0-9 . _ : -, else ours.",
        {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
    ),
    "Cache-Control": _header("Nothing of this API is to be kept by a cache."),
    "ETag": _header("The object's state, for If-Match.", {"type": "string", "pattern": '^"[0-9a-f]+"$'}),
    "Location": _header("The new object's path.", {"type": "string", "format": "uri-reference"}),
    "Link": _header(
        "RFC 8288: rel=first is this list's beginning with the same query, rel=next the next page; none at the end."
    ),
    "Retry-After": _header(
        "Seconds to wait before the same request is worth a try.", {"type": "integer", "minimum": 0}
    ),
    "WWW-Authenticate": _header("The kind of credential that this takes (RFC 9110 §11.6.1)."),
    "Idempotent-Replayed": _header(
        "`true` if an earlier request with this Idempotency-Key was carried out, and this one changed nothing.",
        {"type": "string", "const": "true"},
        required=False,
    ),
    "RateLimit-Policy": _header(
        "The limits of the key or token and of its workspace: q events, or requests, in w seconds.", required=False
    ),
    "RateLimit": _header(
        "What is left of them: r events, or requests; after t seconds without one all are.", required=False
    ),
    "Accept-Ranges": _header("`bytes`: a part of it can be fetched with Range.", {"type": "string", "const": "bytes"}),
    "Content-Range": _header("Which bytes these are, and how many there are; `bytes */123` if none are."),
    "Repr-Digest": _header("RFC 9530: the SHA-256 of the whole file, whatever part of it this is."),
    "Lariba-Cell": _header(
        "The name of the cell whose key or token it is.", {"type": "string", "pattern": "^[a-z0-9]{3}$"}
    ),
    "Accept-Encoding": _header("There if the Content-Encoding was the reason: what is taken.", required=False),
}
# Some statuses stand for several codes, of which only some send it.
_RETRY_AFTER_SOMETIMES: Final = {"Retry-After": HEADERS["Retry-After"] | {"required": False}}

EXAMPLE_REQUEST_ID: Final = "req_0f8fad5bd9cb469fa165708677289502"
# Every path can answer these, so no operation lists them.
_UNDOCUMENTED: Final = {errors.MethodNotAllowed, errors.InternalError}
_EXAMPLE_FAULTS: Final[Mapping[type[Refusal], Fault]] = {
    errors.SchemaValidationFailed: Fault("/name", "Missing data for required field."),
    errors.BatchRejected: Fault("/events/17/event_type", "Missing data for required field."),
}


def header_parameter(name: str, description: str, schema: Document, **more: Any) -> Document:
    """A request header, optional unless `more` says `required`."""
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema} | more


def idempotency_key(description: str, example: str) -> Document:
    """The request header Idempotency-Key, bare or as a quoted string."""
    return header_parameter("Idempotency-Key", description, _IDEMPOTENCY_KEY, example=example)


def headers(*names: str) -> Document:
    """Response headers by name; X-Request-ID is on every response."""
    return {name: name for name in ("X-Request-ID", *names)}


def refusal_responses(
    refusals: Iterable[type[Refusal]], *further_headers: str, notes: Mapping[str, str] | None = None
) -> dict[int, Document]:
    """The error responses of an operation by status; `notes` replaces the description of a code."""
    by_status: dict[int, dict[str, type[Refusal]]] = {}
    for refusal in refusals:
        by_status.setdefault(STATUSES[refusal], {}).setdefault(refusal.code, refusal)
    return {
        status: {
            "description": "\n\n".join(
                f"`{code}`: {(notes or {}).get(code, refusal().message)}" for code, refusal in by_code.items()
            ),
            "headers": _headers_of(list(by_code.values())) | headers(*further_headers),
            "content": {
                JSON: {"schema": ErrorBodySchema, "examples": {code: code for code in by_code}},
                PROBLEM_JSON: {"schema": ProblemDetailsSchema},
            },
        }
        for status, by_code in sorted(by_status.items())
    }


def _headers_of(refusals: list[type[Refusal]]) -> Document:
    found: Document = {}
    retryable = [refusal.retryable for refusal in refusals]
    if any(retryable):
        found |= headers("Retry-After") if all(retryable) else _RETRY_AFTER_SOMETIMES
    if any(STATUSES[refusal] == 401 for refusal in refusals):
        found |= headers("WWW-Authenticate")
    if any(issubclass(refusal, errors.UnsupportedMediaType) for refusal in refusals):
        found |= headers("Accept-Encoding")
    if errors.RangeNotSatisfiable in refusals:
        found |= headers("Content-Range")
    if errors.WrongCell in refusals:
        found |= headers("Lariba-Cell")
    return found


def refusal_examples() -> dict[str, Document]:
    """An error body for every code that operations document, by code."""
    documented = [kind for kind in reversed(STATUSES) if kind not in _UNDOCUMENTED]
    return {kind.code: {"value": _error_body(kind)} for kind in documented}


def _error_body(kind: type[Refusal]) -> Document:
    refusal = kind()
    if (fault := _EXAMPLE_FAULTS.get(kind)) is not None:
        refusal.faults = (fault,)
    _, _, body = render(refusal, None, EXAMPLE_REQUEST_ID)
    document: Document = json.loads(body)
    return document
