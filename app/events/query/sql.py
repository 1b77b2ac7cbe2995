"""What a query means, as a condition on the view `readable_events` or on the hourly counts.

evaluation.py says the same in Python. No condition is ever NULL, so that a negation is what it says: `-payload.a:1`
holds for an event without `a`.
"""

import operator as operator_functions
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

import sqlalchemy as sa

from app.events.query.fields import SEVERITIES, Field
from app.events.query.identity import read_shown_id
from app.events.query.nodes import (
    And,
    Between,
    Compared,
    Everything,
    Has,
    Leaf,
    Moment,
    Named,
    Node,
    Not,
    OneOf,
    Operator,
    Or,
    PayloadPath,
    Prefix,
    String,
    Value,
    Words,
    text_of,
)
from app.events.query.payload_sql import has_member, holds
from app.events.query.values import order

_COLUMNS: Final = {
    Field.TYPE: "event_type",
    Field.SEVERITY: "severity",
    Field.SOURCE: "source_id",
    Field.ENVIRONMENT: "environment_id",
    Field.KEY: "source_key_id",
    Field.ID: "event_id",
    Field.TIMESTAMP: "occurred_at",
}

_COMPARISONS: Final[Mapping[Operator, Callable[[Any, Any], sa.ColumnElement[bool]]]] = {
    Operator.ABOVE: operator_functions.gt,
    Operator.AT_LEAST: operator_functions.ge,
    Operator.BELOW: operator_functions.lt,
    Operator.AT_MOST: operator_functions.le,
}

Condition = sa.ColumnElement[bool]


class Columns(Protocol):
    """Columns by name: the view's, or those of a table that has some of them."""

    def __getitem__(self, name: str, /) -> sa.ColumnElement[Any]: ...


def condition(node: Node, columns: Columns) -> Condition:
    """Whether a row of these columns fulfils the query, in which resolution.py has resolved every name."""
    match node:
        case Everything():
            return sa.true()
        case And(items):
            return sa.and_(*(condition(item, columns) for item in items))
        case Or(items):
            return sa.or_(*(condition(item, columns) for item in items))
        case Not(item):
            return sa.not_(condition(item, columns))
        case _:
            return _leaf(node, columns)


def _leaf(leaf: Leaf, columns: Columns) -> Condition:
    match leaf:
        case Words(words):
            return _holds_words(columns["payload"], words)
        case Has(path):
            return has_member(columns["payload"], path)
        case Named(field, _, ids):
            if ids is None:
                raise ValueError(f"the names of {field.value} are not resolved")
            return columns[_COLUMNS[field]].in_(ids)
        case OneOf(subject) | Compared(subject) | Between(subject):
            if isinstance(subject, PayloadPath):
                return holds(columns["payload"], subject, leaf)
            return _scalar(subject, leaf, columns)


def _holds_words(payload: sa.ColumnElement[Any], words: tuple[str, ...]) -> Condition:
    """The phrase is in event_text(), which takes 20 times as long as a look at the plain text. Words stand in that one
    too, in the same order, and nothing in them has a meaning for LIKE: so few rows need the exact answer.
    """
    text = sa.func.lower(sa.cast(payload, sa.Text).collate("C"))
    phrase = f" {' '.join(words)} "
    return sa.and_(text.like(f"%{'%'.join(words)}%"), sa.func.strpos(sa.func.event_text(payload), phrase) > 0)


def _scalar(field: Field, leaf: OneOf | Compared | Between, columns: Columns) -> Condition:
    match leaf:
        case OneOf(_, values):
            return _is_any_of(field, values, columns)
        case Compared(_, operator, value):
            return _is_beyond(field, operator, value, columns)
        case Between(_, low, high):
            ends = ((Operator.AT_LEAST, low), (Operator.AT_MOST, high))
            return sa.and_(*(_is_beyond(field, operator, end, columns) for operator, end in ends))


def _is_any_of(field: Field, values: Iterable[Value], columns: Columns) -> Condition:
    found = columns[_COLUMNS[field]]
    parts: list[Condition] = []
    whole = [_sent(value) for value in values if not isinstance(value, Prefix)]
    if whole:
        parts.append(found.in_(whole))
    # starts_with() and not LIKE, in which % and _ would need escapes: an index in the order of bytes serves both.
    parts += [sa.func.starts_with(found, value.text) for value in values if isinstance(value, Prefix)]
    if field is Field.ID:
        keys = (read_shown_id(value.text) for value in values if isinstance(value, String))
        parts += [sa.and_(columns["received_at"] == key[0], columns["event_uid"] == key[1]) for key in keys if key]
    return sa.or_(*parts)


def _is_beyond(field: Field, operator: Operator, value: Value, columns: Columns) -> Condition:
    found = columns[_COLUMNS[field]]
    if isinstance(value, Moment):
        return _COMPARISONS[operator](found, value.moment)
    reached = order(field, value)
    return found.in_([it for it in SEVERITIES if operator.holds(order(field, String(it)), reached)])


def _sent(value: Value) -> Any:
    return value.moment if isinstance(value, Moment) else text_of(value)
