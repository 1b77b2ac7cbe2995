"""A query as a value: what parsing makes, and what everything else reads.

Nodes are canonical, so that equal queries are equal values: make them of others with `all_of`, `any_of` and `negated`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Final

from app.events.query.fields import Field


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in the text of a query, in characters."""

    offset: int
    length: int


NOWHERE: Final = Place(0, 0)


@dataclass(frozen=True, slots=True)
class PayloadPath:
    """A member of the payload, by the names of the members that lead to it."""

    members: tuple[str, ...]


Subject = Field | PayloadPath


@dataclass(frozen=True, slots=True)
class String:
    """A string of exactly this text."""

    text: str


@dataclass(frozen=True, slots=True)
class Prefix:
    """A string that begins with this text."""

    text: str


@dataclass(frozen=True, slots=True)
class Number:
    """A number of this value; where it is compared for equality, also the string of this very text."""

    text: str


@dataclass(frozen=True, slots=True)
class Constant:
    """`true`, `false` or `null`, or the string of that text."""

    text: str


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment in UTC."""

    moment: datetime


Value = String | Prefix | Number | Constant | Moment


def text_of(value: Value) -> str:
    """As it is written; of a moment, in ISO 8601."""
    return value.moment.replace(tzinfo=None).isoformat() + "Z" if isinstance(value, Moment) else value.text


class Operator(Enum):
    """How a value is compared by its order."""

    ABOVE = ">"
    AT_LEAST = ">="
    BELOW = "<"
    AT_MOST = "<="

    def holds(self, left: Any, right: Any) -> bool:
        match self:
            case Operator.ABOVE:
                return bool(left > right)
            case Operator.AT_LEAST:
                return bool(left >= right)
            case Operator.BELOW:
                return bool(left < right)
            case Operator.AT_MOST:
                return bool(left <= right)


@dataclass(frozen=True, slots=True)
class Everything:
    """The empty query: every event."""


EVERYTHING: Final = Everything()


@dataclass(frozen=True, slots=True)
class And:
    """What fulfils all of two or more."""

    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Or:
    """What fulfils any of two or more."""

    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Not:
    """What does not fulfil it."""

    item: "Node"


@dataclass(frozen=True, slots=True)
class Words:
    """These words (words.py), one behind the other, in the payload's text."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Has:
    """The payload has this member, be it null."""

    path: PayloadPath


@dataclass(frozen=True, slots=True)
class OneOf:
    """Equal to any of these values."""

    subject: Subject
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """On one side of a value."""

    subject: Subject
    operator: Operator
    value: Value


@dataclass(frozen=True, slots=True)
class Between:
    """From one value to another, both included."""

    subject: Subject
    low: Value
    high: Value


@dataclass(frozen=True, slots=True)
class Name:
    """The name of a source, key or environment as it was written."""

    text: str
    place: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True)
class Named:
    """Of any of these sources, keys or environments."""

    subject: Field
    names: tuple[Name, ...]
    ids: tuple[int, ...] | None = field(default=None, compare=False)
    """Their inner ids, once resolution.py has looked them up."""


Leaf = Words | Has | OneOf | Compared | Between | Named
Node = Everything | And | Or | Not | Leaf


def all_of(items: Iterable[Node]) -> Node:
    """Every event fulfils all of nothing."""
    flat = [part for item in items for part in (item.items if isinstance(item, And) else (item,))]
    kept = tuple(item for item in flat if not isinstance(item, Everything))
    return (And(kept) if len(kept) > 1 else kept[0]) if kept else Everything()


def any_of(items: Iterable[Node]) -> Node:
    """Of at least one item."""
    flat = tuple(part for item in items for part in (item.items if isinstance(item, Or) else (item,)))
    if any(isinstance(item, Everything) for item in flat):
        return Everything()
    return Or(flat) if len(flat) > 1 else flat[0]


def negated(item: Node) -> Node:
    """Twice is nothing."""
    return item.item if isinstance(item, Not) else Not(item)
