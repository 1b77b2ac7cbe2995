"""What the schemas of all resources share: how texts and times are read and written, and what a list is."""

from collections.abc import Callable, Collection
from copy import copy
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar

from marshmallow import Schema, ValidationError, fields, post_load, validate

from app.context import current_context
from app.database.clock import read_clocks
from app.management.common import names
from app.management.common.lifetimes import DAYS_MAX
from app.management.common.lookup import PUBLIC_ID, is_public_id
from app.management.common.mutations import Change
from app.management.common.paging import LIMIT_DEFAULT, LIMIT_MAX, PageRequest
from app.rate_limits import EVENTS_PER_SECOND_MAX
from app.web.schema_fields import InputSchema, MomentField, OutputSchema, TextField

# A rule that JSON Schema cannot express has a name as its format, and a description.
_LINE = {
    "maxLength": names.NAME_CHARACTERS_MAX,
    "format": "line",
    "description": "Words of visible characters with one plain space between them, compared in Unicode's form NFC.",
}
_WORDS = r"\S+(?: \S+)*"
# The last year is kept free: a session in another time zone would read its end as the year 10000, and fail.
_LATEST = datetime(9999, 1, 1, tzinfo=UTC)


class RequestSchema(InputSchema):
    """A body or a query. It loads as an instance of `makes`, whose fields have the same names."""

    makes: ClassVar[type[Any]] = dict

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> Any:
        return self.makes(**data)


class ChangeSchema(InputSchema):
    """The body of a PATCH: what is absent stays."""

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> Change:
        return Change(data)


def change_schema(create: type[Schema], *, without: Collection[str] = ()) -> type[Schema]:
    """The schema of a PATCH: the members of the POST that creates the object, and none of them is required."""
    declared = create._declared_fields  # noqa: SLF001 - marshmallow has no public name for fields without an instance
    members = {name: copy(field) for name, field in declared.items() if name not in without}
    for field in members.values():
        field.required = False
    return ChangeSchema.from_dict(members, name=create.__name__.replace("CreateSchema", "Change"))


class ParsedText(TextField):
    """A text that `read` parses; the message of its ValueError is for the caller."""

    def __init__(self, read: Callable[[str], str], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._read = read

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, attr, data, **kwargs)
        try:
            return self._read(text)
        except ValueError as error:
            raise ValidationError(str(error)) from None


def name_field(*, required: bool = True) -> fields.String:
    described = _LINE | {"minLength": 1, "pattern": f"^{_WORDS}$"}
    return ParsedText(names.read_name, required=required, metadata=described)


def label_field() -> fields.String:
    return ParsedText(names.read_label, metadata=_LINE | {"pattern": f"^(?:{_WORDS})?$"})


def description_field() -> fields.String:
    described = {
        "maxLength": names.DESCRIPTION_CHARACTERS_MAX,
        "format": "text",
        "description": "Any text of several lines, without control characters and such that turn its direction.",
    }
    return ParsedText(names.read_description, metadata=described)


def id_field(unknown: str = "an unknown one shows nothing") -> fields.String:
    """A public id of some object; `unknown` says what an id without an object leads to."""
    described = {"pattern": f"^{PUBLIC_ID}$", "description": f"The id of an object; {unknown}."}
    return ParsedText(_read_id, metadata=described)


def _read_id(text: str) -> str:
    if not is_public_id(text):
        raise ValueError("Must be an id, such as prj_9fKx2.")
    return text


def choice_field(choices: type[StrEnum], **arguments: Any) -> fields.Enum[StrEnum]:
    return fields.Enum(choices, by_value=fields.String, **arguments)


def flag_field(description: str) -> fields.Boolean:
    """Yes or no in a query, in one spelling."""
    return fields.Boolean(
        truthy={"true"},
        falsy={"false"},
        error_messages={"invalid": "Must be true or false."},
        metadata={"description": description},
    )


class DigitsField(fields.Integer):
    """A whole number from 1 on in a query; Python's int() would also take ` 5`, `+5` and `1_0`."""

    def __init__(self, maximum: int, description: str, **arguments: Any) -> None:
        described = {"description": description}
        super().__init__(validate=validate.Range(1, maximum), metadata=described, **arguments)
        self._maximum = maximum

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not (value.isascii() and value.isdecimal() and len(value) <= len(str(self._maximum))):
            raise ValidationError(f"Must be a whole number from 1 to {self._maximum}.")
        return super()._deserialize(value, attr, data, **kwargs)


def rate_field(null: str = "the default") -> fields.Integer:
    """How many events a second a credential may send; `null` says what null means."""
    return fields.Integer(
        strict=True,
        allow_none=True,
        validate=validate.Range(1, EVENTS_PER_SECOND_MAX),
        metadata={"description": f"Whole events a second, obeyed within a few seconds; null: {null}."},
    )


class MomentWithOffset(MomentField):
    """A moment in a request, with its offset from UTC: without one its hour would be a guess."""

    needs_offset = True


class _Expiry(MomentWithOffset):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        utc = super()._deserialize(value, attr, data, **kwargs)
        if not read_clocks(current_context().database).database < utc < _LATEST:
            raise ValidationError("Must be in the future, and before the year 9999.")
        return utc


def expiry_field(
    description: str = "In the future and before the year 9999, with its offset from UTC; null: never.",
) -> fields.Field[Any]:
    """When a credential ends by itself; null means never."""
    return _Expiry(allow_none=True, metadata={"format": "date-time", "description": description})


def expires_within_field() -> DigitsField:
    return DigitsField(DAYS_MAX, "Active now, and over within this many days.")


class _Moment(fields.DateTime):
    def _serialize(self, value: Any, *_: Any, **__: Any) -> Any:
        return None if value is None else value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def moment_field(*, may_be_null: bool = False, **arguments: Any) -> fields.DateTime:
    return _Moment(required=True, allow_none=may_be_null, metadata={"description": "RFC 3339, UTC."}, **arguments)


class ObjectSchema(OutputSchema):
    id = fields.String(required=True, metadata={"pattern": f"^{PUBLIC_ID}$"})
    created_at = moment_field()
    updated_at = moment_field()


class PageQuerySchema(InputSchema):
    limit = DigitsField(LIMIT_MAX, "How many items a page has at most.", load_default=LIMIT_DEFAULT)
    cursor = fields.String(
        metadata={
            "pattern": "^[0-9A-Za-z_.-]{1,200}$",
            "description": "The next_cursor of the page before, with the same filters.",
        }
    )

    @post_load
    def _page_request(self, data: dict[str, Any], **_: Any) -> PageRequest:
        return PageRequest(data["limit"], data.get("cursor"), current_context().settings.secret_key)


class ArchivedQuerySchema(RequestSchema):
    archived = flag_field("true: those that are archived, and no others.")


class PageSchema(OutputSchema):
    """What every list shows a page of."""


def page_schema(name: str, item: type[Schema]) -> type[Schema]:
    """The schema of a page of `item`s."""
    members: dict[str, Any] = {
        "data": fields.List(fields.Nested(item), required=True),
        "next_cursor": fields.String(
            required=True,
            allow_none=True,
            metadata={"description": "Asks for the next page; null at the end."},
        ),
    }
    return PageSchema.from_dict(members, name=name)
