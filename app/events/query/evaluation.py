"""What a query means, in plain Python: whether an event, as callers are shown it, fulfils it.

sql.py says the same to PostgreSQL, and a test holds the two together.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import Any, Final, Protocol

from app.events.query.fields import Field
from app.events.query.nodes import (
    And,
    Between,
    Compared,
    Constant,
    Everything,
    Has,
    Leaf,
    Moment,
    Named,
    Node,
    Not,
    Number,
    OneOf,
    Operator,
    Or,
    PayloadPath,
    Prefix,
    String,
    Value,
    Words,
)
from app.events.query.values import order
from app.events.query.words import event_text, is_number

_CONSTANTS: Final[Mapping[str, Any]] = {"true": True, "false": False, "null": None}


class ShownEvent(Protocol):
    """An event as callers are shown it; the payload as read_payload() reads it."""

    @property
    def id(self) -> str: ...
    @property
    def event_id(self) -> str: ...
    @property
    def event_type(self) -> str: ...
    @property
    def source_id(self) -> str: ...
    @property
    def environment(self) -> str: ...
    @property
    def environment_id(self) -> str: ...
    @property
    def key_id(self) -> str: ...
    @property
    def severity(self) -> str: ...
    @property
    def timestamp(self) -> datetime: ...
    @property
    def payload(self) -> Mapping[str, Any]: ...


def matches(node: Node, event: ShownEvent) -> bool:
    """Whether `event` is one that the query asks for."""
    return _Judge(event).judge(node)


class _Judge:
    def __init__(self, event: ShownEvent) -> None:
        self._event = event

    def judge(self, node: Node) -> bool:
        match node:
            case Everything():
                return True
            case And(items):
                return all(map(self.judge, items))
            case Or(items):
                return any(map(self.judge, items))
            case Not(item):
                return not self.judge(item)
            case _:
                return self._fulfils(node)

    def _fulfils(self, leaf: Leaf) -> bool:
        match leaf:
            case Words(words):
                return f" {' '.join(words)} " in self._text
            case Has(path):
                return next(_found(self._event.payload, path), None) is not None
            case Named(field, names):
                shown = self._names(field)
                return any(name.text in shown for name in names)
            case OneOf(subject, values):
                return any(_equals(value, found) for found in self._values(subject) for value in values)
            case Compared(subject, operator, value):
                return any(_is_beyond(subject, operator, value, found) for found in self._values(subject))
            case Between(subject, low, high):
                return any(
                    _is_beyond(subject, Operator.AT_LEAST, low, found)
                    and _is_beyond(subject, Operator.AT_MOST, high, found)
                    for found in self._values(subject)
                )

    @cached_property
    def _text(self) -> str:
        return event_text(self._event.payload)

    def _names(self, field: Field) -> tuple[str, ...]:
        match field:
            case Field.SOURCE:
                return (self._event.source_id,)
            case Field.KEY:
                return (self._event.key_id,)
            case _:
                return (self._event.environment, self._event.environment_id)

    def _values(self, subject: Field | PayloadPath) -> Iterator[Any]:
        match subject:
            case PayloadPath():
                for (value,) in _found(self._event.payload, subject):
                    # A list is any of its elements; a list within it is none of them.
                    yield from value if isinstance(value, list) else (value,)
            case Field.ID:
                yield from (_Shown(self._event.id), self._event.event_id)
            case Field.TYPE:
                yield self._event.event_type
            case Field.SEVERITY:
                yield self._event.severity
            case _:
                yield self._event.timestamp


class _Shown(str):
    """Our own id: only the whole of it is looked for."""

    __slots__ = ()


def _found(payload: Mapping[str, Any], path: PayloadPath) -> Iterator[tuple[Any]]:
    """The values at a path, each in a tuple. As jsonpath: where a list stands before a name, its elements are meant."""
    current: list[Any] = [payload]
    for name in path.members:
        elements = [element for value in current for element in (value if isinstance(value, list) else (value,))]
        current = [element[name] for element in elements if isinstance(element, Mapping) and name in element]
    return ((value,) for value in current)


def _equals(value: Value, found: Any) -> bool:
    match value:
        case Number(text):
            return found == text or (is_number(found) and bool(found == Decimal(text)))
        case Constant(text):
            return found is _CONSTANTS[text] or found == text
        case Prefix(text):
            return isinstance(found, str) and not isinstance(found, _Shown) and found.startswith(text)
        case String(text):
            return isinstance(found, str) and found == text
        case Moment(moment):
            return bool(found == moment)


def _is_beyond(subject: Field | PayloadPath, operator: Operator, value: Value, found: Any) -> bool:
    if isinstance(subject, PayloadPath):
        if isinstance(value, Number):
            return is_number(found) and operator.holds(found, Decimal(value.text))
        return isinstance(found, str) and operator.holds(order(subject, String(found)), order(subject, value))
    shown = Moment(found) if isinstance(value, Moment) else String(found)
    return operator.holds(order(subject, shown), order(subject, value))
