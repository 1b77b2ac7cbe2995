"""What the schemas of ingest and management share: base classes, texts, times, and the wording of mistakes."""

from typing import Any, Final

import msgspec
from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields

from app.wire import rfc3339

UNKNOWN_MEMBER: Final = "This member is not known."
# Marshmallow's messages, and ours, which say what to send.
_MESSAGES: Final = {
    "Field may not be null.": "Must not be null.",
    "Invalid input type.": "Must be a JSON object.",
    "Not a valid boolean.": "Must be true or false.",
    "Not a valid integer.": "Must be a whole number.",
    "Not a valid list.": "Must be a list.",
    "Not a valid mapping type.": "Must be a JSON object.",
    "Not a valid string.": "Must be a string.",
}


class InputSchema(Schema):
    """What callers send: an unknown member is refused, because a misspelt one would be ignored in silence."""

    class Meta:
        unknown = RAISE

    error_messages = {"unknown": UNKNOWN_MEMBER, "type": "Must be a JSON object."}  # noqa: RUF012

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """Replace marshmallow's messages of a field; its own stay."""
        messages = field_obj.error_messages
        messages.update({kind: _MESSAGES.get(str(message), message) for kind, message in messages.items()})
        if isinstance(field_obj, fields.List):
            self.on_bind_field(field_name, field_obj.inner)


class OutputSchema(Schema):
    """What callers receive: the document allows further members, which later versions may add."""

    class Meta:
        unknown = EXCLUDE


class TextField(fields.String):
    """A JSON string; marshmallow's String would also take bytes."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, str):
            raise self.make_error("invalid")
        return super()._deserialize(value, attr, data, **kwargs)


class MomentField(TextField):
    """A point in time; rfc3339.py reads it."""

    needs_offset = False

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, int | float | msgspec.Raw) and not isinstance(value, bool):
            raise ValidationError(rfc3339.NOT_A_NUMBER)
        text = super()._deserialize(value, attr, data, **kwargs)
        try:
            return rfc3339.read_moment(text, needs_offset=self.needs_offset)
        except ValueError as error:
            raise ValidationError(str(error)) from None
