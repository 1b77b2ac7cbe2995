"""How the operations of the control plane read in the OpenAPI document, beside what their schemas say."""

from collections.abc import Iterable
from typing import Any, Final

from app import errors
from app.errors import PreconditionFailed, Refusal
from app.problems import STATUSES

_ALWAYS: Final = (
    errors.InvalidManagementToken,
    errors.SchemaValidationFailed,
    errors.StorageUnavailable,
)
_WITH_BODY: Final = (errors.BadRequest, errors.PayloadTooLarge, errors.UnsupportedMediaType)
_IF_MATCH: Final = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "The ETag of the state that the change is meant for; any other state answers 412.",
    "schema": {"type": "string"},
}
_ETAG: Final = {"description": "The object's state, for If-Match.", "schema": {"type": "string"}}

SHOWN: Final = {"ETag": _ETAG}
"""Headers of an answer that shows one object."""
CREATED: Final = {
    "ETag": _ETAG,
    "Location": {"description": "The new object's path.", "schema": {"type": "string"}},
}
"""Headers of an answer that shows a new object."""


def describe(view_name: str, method: str, rule: str, guard: str, refuses: Iterable[type[Refusal]]) -> dict[str, Any]:
    """What is documented of an operation: its id, its credential, its error answers and its condition."""
    refusals: list[type[Refusal]] = [*_ALWAYS, *refuses]
    if method != "GET":
        refusals += _WITH_BODY
    if "<" in rule:
        refusals.append(errors.NotFound)
    words = view_name.split("_")
    described: dict[str, Any] = {
        "operationId": words[0] + "".join(word.capitalize() for word in words[1:]),
        "security": [{guard: []}],
        "responses": _answers(refusals),
    }
    if PreconditionFailed in refusals:
        described["parameters"] = [_IF_MATCH]
    return described


def _answers(refusals: list[type[Refusal]]) -> dict[str, Any]:
    codes: dict[int, list[str]] = {}
    for refusal in refusals:
        codes.setdefault(STATUSES[refusal], []).append(refusal.code)
    return {
        str(status): {
            "description": ", ".join(codes[status]),
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}},
        }
        for status in sorted(codes)
    }
