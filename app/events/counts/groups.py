"""What counts are grouped by: a field of the event, or a member of its payload. An event is in exactly one group."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Numeric, Select, Text, case, cast, func, literal, null, select, true
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, JSONPATH
from sqlalchemy.orm import Session

from app.errors import Fault, SchemaValidationFailed
from app.events.query.faults import nearest
from app.events.query.nodes import Has, PayloadPath
from app.events.query.parsing import parse
from app.events.query.printing import print_query
from app.management.common.operators import Operator
from app.models import Environment, Source, SourceKey

VALUE_CHARACTERS_MAX: Final = 256
"""Strings of the payload are distinguished by so many characters: a group's value is shown in every bucket."""
_COLUMNS: Final[Mapping[str, str | None]] = {
    "none": None,
    "type": "event_type",
    "severity": "severity",
    "source": "source_id",
    "environment": "environment_id",
    "key": "source_key_id",
}
GROUP_BY_CHARACTERS_MAX: Final = 500
GROUP_BY_PATTERN: Final = (
    rf"^(?:{'|'.join(_COLUMNS)}"
    r'|payload(?:\.(?:(?:[A-Za-z0-9_$@-]|[^\x00-\x7f\s])+|"(?:[^"\\\x00]|\\["\\])*"))+)$'
)
"""What read_grouping() takes, as the OpenAPI document says it."""
_HAS: Final = "has:"


class Kind(StrEnum):
    """What a group is of: a value's kind in JSON, or why there is none."""

    STRING = "string"
    NUMBER = "number"
    BOOLEAN = "boolean"
    NULL = "null"
    ARRAY = "array"
    """Lists of several elements or none; one element counts as itself."""
    OBJECT = "object"
    ABSENT = "absent"
    """The payload has no such member."""
    REST = "rest"
    """All groups that are not shown by themselves."""


WITHOUT_VALUE: Final = frozenset({Kind.ARRAY, Kind.OBJECT, Kind.ABSENT})
"""Groups without a value, which are always shown by themselves."""


class Group(NamedTuple):
    """As PostgreSQL finds it: of sources, keys and environments the inner id."""

    kind: str
    value: str | None


@dataclass(frozen=True, slots=True)
class Grouping:
    """What events are grouped by."""

    name: str
    """As it is shown."""
    column: str | None = None
    path: PayloadPath | None = None

    @property
    def is_none(self) -> bool:
        return self.column is None and self.path is None

    def read_of(self, events: Any) -> list[ColumnElement[Any]]:
        """What has to be read of a stored event."""
        if self.path is not None:
            return [_found(events.c.payload, self.path).label("found")]
        return [] if self.column is None else [events.c[self.column]]

    def grouped(self, events: Select[Any]) -> Select[Any]:
        """`at`, `events`, `kind` and `value` of what was read."""
        if self.path is not None:
            # OFFSET keeps PostgreSQL from looking the path up again wherever it is mentioned.
            read = events.offset(0).subquery("read")
            return select(read.c.at, literal(1).label("events"), *_kind_and_value(read.c.found))
        read = events.subquery("read")
        return select(read.c.at, literal(1).label("events"), *self.of_columns(read.c))

    def of_columns(self, columns: Any) -> list[ColumnElement[Any]]:
        """`kind` and `value` of rows that have the column."""
        value = null() if self.column is None else columns[self.column]
        return [literal(Kind.STRING.value, Text).label("kind"), cast(value, Text).label("value")]


NO_GROUPS: Final = Grouping("none")


def read_grouping(text: str) -> Grouping:
    """What `group_by` asks for. Raises SchemaValidationFailed with the place of what is wrong."""
    if text in _COLUMNS:
        return Grouping(text, column=_COLUMNS[text])
    if not text.startswith("payload"):
        message = f"Must be one of {', '.join(_COLUMNS)}, or a member of the payload, such as payload.customer."
        raise SchemaValidationFailed(faults=(Fault("/group_by", message, suggestions=nearest(text, _COLUMNS)),))
    # The language knows what a path is.
    try:
        node = parse(f"{_HAS}{text}", pointer="/group_by")
    except SchemaValidationFailed as refusal:
        raise SchemaValidationFailed(faults=tuple(map(_without_has, refusal.faults))) from None
    # The language would let spaces stand around it, and makes nothing of them.
    if not isinstance(node, Has) or re.fullmatch(GROUP_BY_PATTERN, text) is None:
        message = "Must be one member of the payload, such as payload.customer."
        raise SchemaValidationFailed(faults=(Fault("/group_by", message, 0, len(text)),))
    return Grouping(print_query(node).removeprefix(_HAS), path=node.path)


def _without_has(fault: Fault) -> Fault:
    offset = max(0, (fault.offset or 0) - len(_HAS))
    return Fault(fault.pointer, fault.message, offset, fault.length)


def _found(payload: ColumnElement[Any], path: PayloadPath) -> ColumnElement[Any]:
    """A list of the values at a path: several, if it leads through a list of several elements."""
    written = "".join(["$", *(f".{json.dumps(name)}" for name in path.members)])
    found: ColumnElement[Any] = func.jsonb_path_query_array(
        payload, cast(written, JSONPATH), cast(literal("{}", Text), JSONB), true(), type_=JSONB
    )
    return found


def _kind_and_value(found: Any) -> list[ColumnElement[Any]]:
    """Of the values at a path. A list of one element is that element, as in the language."""
    first = found[0]
    element = case((func.jsonb_array_length(first) == 1, first[0]), else_=first)
    only: Any = case((func.jsonb_typeof(first) == "array", element), else_=first)
    length = func.jsonb_array_length(found)
    kind = case(
        (length == 0, Kind.ABSENT.value), (length > 1, Kind.ARRAY.value), else_=func.jsonb_typeof(only, type_=Text)
    )
    written = only.op("#>>", return_type=Text())(literal([], ARRAY(Text)))
    value = case(
        (kind == Kind.STRING.value, func.left(written, VALUE_CHARACTERS_MAX)),
        # Equal numbers are one group, however many zeros they end with.
        (kind == Kind.NUMBER.value, cast(func.trim_scale(cast(written, Numeric)), Text)),
        (kind == Kind.BOOLEAN.value, written),
        (kind == Kind.NULL.value, "null"),
    )
    return [kind.label("kind"), value.label("value")]


def names_of(
    session: Session, operator: Operator, project_row: int, grouping: Grouping, values: Collection[str]
) -> Mapping[str, str]:
    """What callers see of values that are inner ids: public ids, and environments' names; nothing of other values."""
    match grouping.name:
        case "source":
            model: Any = Source
            shown: Any = Source.public_id
        case "key":
            model, shown = SourceKey, SourceKey.public_id
        case "environment":
            model, shown = Environment, Environment.name
        case _:
            return {}
    query = model.within(operator.workspace_id).where(model.project_id == project_row, model.id.in_(map(int, values)))
    return {str(row): name for row, name in session.execute(query.with_only_columns(model.id, shown))}
