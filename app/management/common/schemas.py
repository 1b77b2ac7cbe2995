"""What the shapes of all resources share: how texts and times are read and written, and what a list is."""

from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, post_load, validate

from app.context import current_context
from app.database.clock import read_clocks
from app.management.common import names
from app.management.common.lifetimes import DAYS_MAX
from app.management.common.lookup import PUBLIC_ID, is_public_id
from app.management.common.paging import LIMIT_DEFAULT, LIMIT_MAX, PageRequest
from app.rate_limits import EVENTS_PER_SECOND_MAX
from app.web.schema_fields import InputSchema, MomentField, TextField

_MOMENT = {"description": "RFC 3339, UTC."}
# What JSON Schema cannot say has a name as its format, and words.
_LINE = {
    "maxLength": names.NAME_CHARACTERS_MAX,
    "format": "line",
    "description": "Words of visible characters with one plain space between them, compared in Unicode's form NFC.",
}
_WORDS = r"\S+(?: \S+)*"
# The last year is kept free: a session in another time zone would read its end as the year 10000, and fail.
_LATEST = datetime(9999, 1, 1, tzinfo=UTC)


class RequestSchema(InputSchema):
    """A body or a query of ours."""


class _ReadText(TextField):
    """A text that a function reads, most of them in names.py."""

    def __init__(self, read: Callable[[str], str], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._read = read

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, attr, data, **kwargs)
        try:
            return self._read(text)
        except ValueError as error:
            raise ValidationError(str(error)) from None


def text_field(read: Callable[[str], str], **arguments: Any) -> fields.String:
    """A text that `read` reads; what it says in a ValueError is told to the caller."""
    return _ReadText(read, **arguments)


def name_field(*, required: bool) -> fields.String:
    """A name that people choose."""
    described = _LINE | {"minLength": 1, "pattern": f"^{_WORDS}$"}
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
    return _ReadText(names.read_label, metadata=_LINE | {"pattern": f"^(?:{_WORDS})?$"})


def description_field() -> fields.String:
    """A text of several lines."""
    described = {
        "maxLength": names.DESCRIPTION_CHARACTERS_MAX,
        "format": "text",
        "description": "Any text of several lines, without control characters and such that turn its direction.",
    }
    return _ReadText(names.read_description, metadata=described)


def id_field(told: str = "one that nobody has shows nothing") -> fields.String:
    """A public id of some object; `told` says what becomes of one that nobody has."""
    described = {"pattern": f"^{PUBLIC_ID}$", "description": f"The id of an object; {told}."}
    return _ReadText(_read_id, metadata=described)


def _read_id(text: str) -> str:
    if not is_public_id(text):
        raise ValueError("Must be an id, such as prj_9fKx2.")
    return text


def choice_field(choices: type[StrEnum], **arguments: Any) -> fields.Enum[StrEnum]:
    """One of a few words."""
    return fields.Enum(choices, by_value=fields.String, **arguments)


class StatedMoment(MomentField):
    """A moment with its offset: it must not be another hour than its writer thinks."""

    needs_offset = True


class Expiry(StatedMoment):
    """A moment to come."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        utc = super()._deserialize(value, attr, data, **kwargs)
        if not read_clocks(current_context().database).database < utc < _LATEST:
            raise ValidationError("Must be in the future, and before the year 9999.")
        return utc


def instant_field(*, data_key: str, description: str) -> StatedMoment:
    """A moment to filter by."""
    return StatedMoment(data_key=data_key, metadata={"format": "date-time", "description": description})


def expiry_field(
    description: str = "In the future and before the year 9999, with its offset from UTC; null: never.",
) -> Expiry:
    """When a credential ends by itself; null means never."""
    return Expiry(allow_none=True, metadata={"format": "date-time", "description": description})


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


def moment_field(*, may_be_null: bool = False, **arguments: Any) -> Moment:
    """A time in an answer, as documented."""
    return Moment(required=True, allow_none=may_be_null, metadata=_MOMENT, **arguments)


class AnswerSchema(Schema):
    """A body of ours that readers must expect to grow: the document does not call further members wrong."""

    class Meta:
        unknown = EXCLUDE


class ObjectSchema(AnswerSchema):
    """What every object shows."""

    id = fields.String(required=True, metadata={"pattern": f"^{PUBLIC_ID}$"})
    created_at = moment_field()
    updated_at = moment_field()


class DigitsField(fields.Integer):
    """A whole number from 1 on in a query: nothing that Python would also take for one (` 5`, `+5`, `1_0`)."""

    def __init__(self, maximum: int, **arguments: Any) -> None:
        super().__init__(validate=validate.Range(1, maximum), **arguments)
        self._maximum = maximum

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not (value.isascii() and value.isdecimal() and len(value) <= len(str(self._maximum))):
            raise ValidationError(f"Must be a whole number from 1 to {self._maximum}.")
        return super()._deserialize(value, attr, data, **kwargs)


def expires_within_field() -> DigitsField:
    """Which credentials end soon."""
    return DigitsField(DAYS_MAX, metadata={"description": "Active now, and over within this many days."})


class PageQuerySchema(InputSchema):
    """The query of every list."""

    limit = DigitsField(
        LIMIT_MAX, load_default=LIMIT_DEFAULT, metadata={"description": "How many items a page has at most."}
    )
    cursor = fields.String(
        metadata={
            "pattern": "^[0-9A-Za-z_.-]{1,200}$",
            "description": "The next_cursor of the page before, with the same filters.",
        }
    )

    @post_load
    def _page_request(self, data: dict[str, Any], **_: Any) -> PageRequest:
        return PageRequest(data["limit"], data.get("cursor"), current_context().settings.secret_key)


def flag_field(description: str) -> fields.Boolean:
    """Yes or no in a query, in one spelling."""
    return fields.Boolean(
        truthy={"true"},
        falsy={"false"},
        error_messages={"invalid": "Must be true or false."},
        metadata={"description": description},
    )


def archived_field() -> fields.Boolean:
    """Whether a list shows what is archived, instead of what is in use."""
    return flag_field("true: those that are archived, and no others.")


class ArchivedQuerySchema(RequestSchema):
    """Whether a list shows what is in use, or what is archived."""

    archived = archived_field()


class PageSchema(AnswerSchema):
    """What every list shows a page of."""


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
    return PageSchema.from_dict(members, name=name)
