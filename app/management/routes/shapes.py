"""What the shapes of all resources share: how texts and times are read and written, and what a list is."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, post_load, validate

from app.context import context, now
from app.management import names
from app.management.lookup import PUBLIC_ID, is_public_id
from app.management.pages import LIMIT_DEFAULT, LIMIT_MAX, PageRequest
from app.rate_limits.window import EVENTS_PER_SECOND_MAX

_MOMENT = {"description": "RFC 3339, UTC."}
# The last year is kept free: a session in another time zone would read its end as the year 10000, and fail.
_LATEST = datetime(9999, 1, 1, tzinfo=UTC)


class RequestSchema(Schema):
    """A body of ours: an unknown member is refused, for a typo must not vanish."""

    class Meta:
        unknown = RAISE


class _ReadText(fields.String):
    """A text that a function of names.py reads."""

    def __init__(self, read: Callable[[str], str], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._read = read

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, attr, data, **kwargs)
        try:
            return self._read(str(text))
        except ValueError as error:
            raise ValidationError(str(error)) from None


def name_field(*, required: bool) -> fields.String:
    """A name that people choose."""
    described = {"minLength": 1, "maxLength": names.NAME_CHARACTERS_MAX}
    return _ReadText(names.read_name, required=required, metadata=described)


def environment_name_field(*, required: bool) -> fields.String:
    """A name that producers send."""
    described = {
        "pattern": f"^{names.ENVIRONMENT_NAME}$",
        "description": "Producers may send it as `environment`, and it is compared letter by letter.",
    }
    return _ReadText(names.read_environment_name, required=required, metadata=described)


def label_field() -> fields.String:
    """A name that may be empty."""
    return _ReadText(names.read_label, metadata={"maxLength": names.NAME_CHARACTERS_MAX})


def description_field() -> fields.String:
    """A text of several lines."""
    return _ReadText(names.read_description, metadata={"maxLength": names.DESCRIPTION_CHARACTERS_MAX})


def id_field() -> fields.String:
    """A public id to filter by; one that nobody has shows nothing."""
    return _ReadText(_read_id, metadata={"pattern": f"^{PUBLIC_ID}$"})


def _read_id(text: str) -> str:
    if not is_public_id(text):
        raise ValueError("Must be an id, such as prj_9fKx2.")
    return text


class Expiry(fields.String):
    """A moment to come, with its offset: a key must not die at another hour than its owner thinks."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        try:
            moment = datetime.fromisoformat(text)
            utc = moment.astimezone(UTC)
        except (ValueError, OverflowError):
            raise ValidationError("Must be an ISO 8601 time such as 2030-01-31T12:00:00Z.") from None
        if moment.tzinfo is None:
            raise ValidationError("Must say its offset from UTC, such as Z or +02:00.")
        if not now() < utc < _LATEST:
            raise ValidationError("Must be in the future, and before the year 9999.")
        return utc


def expiry_field() -> Expiry:
    """When a credential ends by itself; null means never."""
    return Expiry(allow_none=True, metadata={"format": "date-time", "description": "In the future; null: never."})


def rate_field() -> fields.Integer:
    """How many events a second a credential may send; null means as many as the installation says."""
    return fields.Integer(
        strict=True,
        allow_none=True,
        validate=validate.Range(1, EVENTS_PER_SECOND_MAX),
        metadata={"description": "Whole events a second, obeyed within a few seconds; null: the default."},
    )


class Moment(fields.DateTime):
    """A time in an answer."""

    def _serialize(self, value: Any, *_: Any, **__: Any) -> Any:
        return None if value is None else value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def moment_field(*, may_be_null: bool = False) -> Moment:
    """A time in an answer, as documented."""
    return Moment(required=True, allow_none=may_be_null, metadata=_MOMENT)


class AnswerSchema(Schema):
    """A body of ours that readers must expect to grow: the document does not call further members wrong."""

    class Meta:
        unknown = EXCLUDE


class ObjectSchema(AnswerSchema):
    """What every object shows."""

    id = fields.String(required=True)
    created_at = moment_field()
    updated_at = moment_field()


class _Limit(fields.Integer):
    """Digits, nothing that Python would also take for a number (` 5`, `+5`, `1_0`)."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not (value.isascii() and value.isdecimal() and len(value) <= len(str(LIMIT_MAX))):
            raise ValidationError(f"Must be a whole number from 1 to {LIMIT_MAX}.")
        return super()._deserialize(value, attr, data, **kwargs)


class PageQuerySchema(Schema):
    """The query of every list."""

    limit = _Limit(load_default=LIMIT_DEFAULT, validate=validate.Range(1, LIMIT_MAX))
    cursor = fields.String(metadata={"description": "The next_cursor of the page before."})

    @post_load
    def _page_request(self, data: dict[str, Any], **_: Any) -> PageRequest:
        return PageRequest(data["limit"], data.get("cursor"), context().settings.secret_key)


def page_schema(name: str, item: type[Schema]) -> type[Schema]:
    """The shape of a list of `item`."""
    members: dict[str, Any] = {
        "data": fields.List(fields.Nested(item), required=True),
        "next_cursor": fields.String(
            required=True,
            allow_none=True,
            metadata={"description": "Asks for the next page; null at the end."},
        ),
    }
    return AnswerSchema.from_dict(members, name=name)
