"""How the operations of the control plane read in the OpenAPI document, beside what their schemas say."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from marshmallow import Schema, fields

from app import errors
from app.errors import Refusal
from app.management.common.lookup import PUBLIC_ID
from app.management.common.names import PATH_NAME
from app.management.common.operation import GUARD, Operation
from app.management.common.operators import Role
from app.management.common.schemas import ObjectSchema, PageSchema
from app.web import openapi

_ALWAYS: Final = (
    errors.InvalidManagementToken,
    errors.SchemaValidationFailed,
    errors.WrongCell,
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
CREATED: Final = openapi.headers("ETag", "Location")
_MOMENT: Final = "2026-06-01T10:00:00.000000Z"
# The one object that is known by the name that its owner gave it.
_NAMED: Final = (
    "The consumer's name: 1 to 100 letters, digits, dots, underscores and hyphens, no dot at the beginning.",
    PATH_NAME,
)
# Members that several resources share. The `id` of a Project is a project_id.
_EXAMPLES: Final[Mapping[str, str | None]] = {
    "workspace_id": "ws_9fKx2LmQ",
    "project_id": "prj_9fKx2LmQ",
    "project_ids": "prj_9fKx2LmQ",
    "environment_id": "env_9fKx2LmQ",
    "source_id": "src_9fKx2LmQ",
    "key_id": "key_9fKx2LmQ",
    "token_id": "tok_9fKx2LmQ",
    "entry_id": "aud_9fKx2LmQ",
    "consumer_id": "csm_9fKx2LmQ",
    "export_id": "exp_9fKx2LmQ",
    "replay_id": "rep_9fKx2LmQ",
    "object_id": "src_9fKx2LmQ",
    "name": "checkout",
    "description": "What sells",
    "label": "checkout-1",
    "key": "lrb_sk_9fKx2LmQ_shownOnce",
    "token": "lrb_mt_9fKx2LmQ_shownOnce",
    "replaces": "key_7dHs4WnR",
    "replaced_by": None,
    "allowed_event_types": "payment.*",
    "allowed_origins": "https://shop.example",
    "allowed_networks": "203.0.113.0/24",
    "address": "203.0.113.7",
    "actor": "tok_9fKx2LmQ",
    "action": "source_key.issue",
    "request_id": openapi.EXAMPLE_REQUEST_ID,
    "next_cursor": "WyIyMDI2LTA2LTAxVDEwOjAwOjAwWiJd.Kd2vUFQ",
    "expires_at": None,
    "revoked_at": None,
}


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
    if operation.method == "POST" and operation.is_change:
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
    """The ids and names in a rule."""
    return [
        {"in": "path", "name": name, "required": True} | _described(name, is_producers=bool(converter))
        for converter, name in re.findall("<(?:(path):)?([^>]+)>", rule)
    ]


def _described(name: str, *, is_producers: bool) -> dict[str, Any]:
    if name == "name":
        text, pattern = _NAMED
    else:
        text = f"The {name.removesuffix('_id').replace('_', ' ')}'s id."
        # One that a producer has chosen may hold any visible character, and a slash is none of a path's there.
        pattern = r"\S{1,128}" if is_producers else PUBLIC_ID
    return {"description": text, "schema": {"type": "string", "pattern": f"^{pattern}$"}}


def _refusals(operation: Operation) -> list[type[Refusal]]:
    refusals: list[type[Refusal]] = [*_ALWAYS, *operation.refuses]
    if operation.role is not Role.AUDITOR or operation.is_for_whole_workspace:
        refusals.append(errors.InsufficientScope)
    if operation.method != "GET":
        refusals += openapi.BODY_REFUSALS
    if operation.method == "POST" and operation.is_change:
        refusals += [errors.IdempotencyKeyReused, errors.IdempotencyInProgress]
    if "<" in operation.rule:
        refusals.append(errors.NotFound)
    return refusals


def headers_of(schema: type[Schema], status: int) -> dict[str, Any]:
    """The headers of a response that shows an object, a new object, or a page of a list."""
    if issubclass(schema, PageSchema):
        return openapi.headers("Link")
    if issubclass(schema, ObjectSchema):
        return CREATED if status == 201 else SHOWN
    return {}


def example_of(schema: Schema) -> dict[str, Any]:
    """A body that fits `schema`, of the `example` in each field's metadata or of what its name or type suggests."""
    noun = re.findall("[A-Z][a-z]*", type(schema).__name__.removesuffix("Schema"))[-1].lower()
    return {
        field.data_key or name: _example(f"{noun}_id" if name == "id" else name, field)
        for name, field in schema.fields.items()
    }


def _example(name: str, field: fields.Field[Any]) -> Any:
    if "example" in field.metadata:
        return field.metadata["example"]
    if isinstance(field, fields.List):
        return [_example(name, field.inner)]
    if isinstance(field, fields.Nested):
        return [example_of(field.schema)] if field.many else example_of(field.schema)
    if isinstance(field, fields.Enum):
        return field.choices_text.split(", ")[0]
    if name in _EXAMPLES:
        return _EXAMPLES[name]
    by_type = {fields.DateTime: _MOMENT, fields.Boolean: True, fields.Integer: 100, fields.Dict: {}}
    return next((value for kind, value in by_type.items() if isinstance(field, kind)), "text")
