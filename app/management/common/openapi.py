"""How the operations of the control plane read in the OpenAPI document, beside what their schemas say."""

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from app import errors
from app.errors import Refusal
from app.management.common.lookup import PUBLIC_ID
from app.management.common.operation import GUARD, Operation
from app.management.common.operators import Role
from app.web import openapi

_ALWAYS: Final = (
    errors.InvalidManagementToken,
    errors.SchemaValidationFailed,
    errors.RateLimitExceeded,
    errors.StorageUnavailable,
)
_ON_EVERY_RESPONSE: Final = ("Cache-Control", "RateLimit", "RateLimit-Policy")
_IF_MATCH: Final = openapi.header_parameter(
    "If-Match",
    "The ETag of the state that the change is meant for, or *; any other state answers 412.",
    {"type": "string", "minLength": 1},
    examples={
        "any state": {"value": "*"},
        "the state that was read": {"value": '"5f1d7a84db00d2fce00b31a7"'},
    },
)
_IDEMPOTENCY_KEY: Final = openapi.idempotency_key(
    "Yours for this request: sent again with the same content, it changes nothing more.", "4f8e2d1c-create-shop"
)

SHOWN: Final = openapi.headers("ETag")
"""Headers of a response that shows one object."""
CREATED: Final = openapi.headers("ETag", "Location")
"""Headers of a response that shows a new object."""
PAGED: Final = openapi.headers("Link")
"""Headers of a response that shows a page of a list."""


def operation_id(view_name: str) -> str:
    """`read_project` is the operation readProject."""
    words = view_name.split("_")
    return words[0] + "".join(word.capitalize() for word in words[1:])


def describe(view: Callable[..., Any], operation: Operation, statuses: Iterable[int]) -> dict[str, Any]:
    """What smorest's `doc` takes: words, credential, role, parameters, errors; and headers of the own `statuses`."""
    sentence, _, rest = (inspect.getdoc(view) or "").partition(".")
    takes = f"Takes a management token with the role `{operation.role}` or more"
    takes += ", for the whole workspace." if operation.is_for_whole_workspace else "."
    headers = openapi.headers(*_ON_EVERY_RESPONSE)
    parameters: list[dict[str, Any]] = (
        [_IF_MATCH | {"required": operation.needs_condition}] if operation.takes_condition else []
    )
    if operation.method == "POST":
        parameters.append(_IDEMPOTENCY_KEY)
        headers |= openapi.headers("Idempotent-Replayed")
    return {
        "operationId": operation_id(view.__name__),
        "summary": f"{sentence}.",
        "description": "\n\n".join(filter(None, (rest.strip(), takes))),
        "security": [{GUARD: []}],
        "x-required-role": operation.role.value,
        "responses": {status: {"headers": headers} for status in statuses}
        | openapi.refusal_responses(_refusals(operation), *_ON_EVERY_RESPONSE),
    } | ({"parameters": parameters} if parameters else {})


def path_parameters(rule: str) -> list[dict[str, Any]]:
    """The ids in a rule."""
    return [
        {
            "in": "path",
            "name": name,
            "required": True,
            "description": f"The {name.removesuffix('_id').replace('_', ' ')}'s id.",
            "schema": {"type": "string", "pattern": f"^{PUBLIC_ID}$"},
        }
        for name in re.findall("<([^>]+)>", rule)
    ]


def _refusals(operation: Operation) -> list[type[Refusal]]:
    refusals: list[type[Refusal]] = [*_ALWAYS, *operation.refuses]
    if operation.role is not Role.AUDITOR or operation.is_for_whole_workspace:
        refusals.append(errors.InsufficientScope)
    if operation.method != "GET":
        refusals += openapi.BODY_REFUSALS
    if operation.method == "POST":
        refusals += [errors.IdempotencyKeyReused, errors.IdempotencyInProgress]
    if "<" in operation.rule:
        refusals.append(errors.NotFound)
    return refusals
