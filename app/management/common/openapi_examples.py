"""Makes an example of an answer out of its schema, so that no shape is without one, and none is outdated."""

from typing import Any, Final

from marshmallow import Schema, fields

_MOMENT: Final = "2026-06-01T10:00:00.000000Z"
_CURSOR: Final = "InNyY185ZktEMk14Ig.Kd2vUFQ"
# What an object's public id begins with, by the word that its schema or its member begins with.
_PREFIXES: Final = {
    "workspace": "ws",
    "project": "prj",
    "environment": "env",
    "source": "src",
    "key": "key",
    "token": "tok",
    "audit": "aud",
}
# Texts by the end of their members' names.
_TEXTS: Final = {
    "name": "checkout",
    "description": "What sells",
    "label": "checkout-1",
    "cursor": _CURSOR,
    "address": "203.0.113.7",
    "actor": "tok_9fKx2LmQ",
    "object_id": "src_9fKx2LmQ",
    "request_id": "req_0f8fad5bd9cb469fa165708677289502",
    "action": "source_key.issue",
    "key": "lrb_sk_9fKx2LmQ_shownOnce",
    "token": "lrb_mt_9fKx2LmQ_shownOnce",
}


def example_of(schema: Schema) -> dict[str, Any]:
    """A body that fits `schema`; a field's own `example` in its metadata counts."""
    noun = type(schema).__name__.removesuffix("Schema").removeprefix("Issued").lower()
    return {field.data_key or name: _value(name, field, noun) for name, field in schema.fields.items()}


def _value(name: str, field: fields.Field[Any], noun: str) -> Any:
    if "example" in field.metadata:
        return field.metadata["example"]
    if isinstance(field, fields.List):
        return [_value(name.removesuffix("s"), field.inner, noun)]
    if isinstance(field, fields.Nested):
        return [example_of(field.schema)] if field.many else example_of(field.schema)
    if isinstance(field, fields.Enum):
        return field.choices_text.split(", ")[0]
    return _scalar(name, field, noun)


def _scalar(name: str, field: fields.Field[Any], noun: str) -> Any:
    if isinstance(field, fields.DateTime):
        return None if field.allow_none and name in ("revoked_at", "expires_at") else _MOMENT
    if isinstance(field, fields.Boolean):
        return True
    if isinstance(field, fields.Integer):
        return 100
    if isinstance(field, fields.Dict):
        return {}
    word = noun if name == "id" else name
    if name == "id" or name.endswith("_id"):
        prefix = next((prefix for start, prefix in _PREFIXES.items() if word.startswith(start)), None)
        if prefix is not None:
            return f"{prefix}_9fKx2LmQ"
    return next((text for end, text in _TEXTS.items() if name.endswith(end)), "text")
