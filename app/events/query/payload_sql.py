"""Conditions on members of the payload, as one SQL/JSON path each, which PostgreSQL reads once a statement.

In a path's lax mode a list stands for its elements, at each step and where values are compared. A filter and the
comparisons in it would each unwrap a list, and a list of lists would be compared as if it were flat; the two ends of a
range even with two of its elements. So a list that is left behind the filter's own step is compared with nothing.
"""

import json
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, JSONPATH

from app.events.query.nodes import (
    Between,
    Compared,
    Constant,
    Number,
    OneOf,
    Operator,
    PayloadPath,
    Prefix,
    Value,
    text_of,
)


def has_member(payload: sa.ColumnElement[Any], path: PayloadPath) -> sa.ColumnElement[bool]:
    """The member is there, be it null."""
    return _exists(payload, _accessors(path), Predicate())


def holds(
    payload: sa.ColumnElement[Any], path: PayloadPath, leaf: OneOf | Compared | Between
) -> sa.ColumnElement[bool]:
    """Any of the values at `path` is what the leaf asks for."""
    predicate = Predicate()
    return _exists(payload, f'{_accessors(path)} ? (@.type() != "array" && ({predicate.write(leaf)}))', predicate)


def _exists(payload: sa.ColumnElement[Any], path: str, predicate: "Predicate") -> sa.ColumnElement[bool]:
    found = sa.func.jsonb_path_exists(payload, sa.cast(path, JSONPATH), _json(predicate.variables), sa.true())
    return found.is_(sa.true())


def _json(members: Iterable[str]) -> sa.ColumnElement[Any]:
    # As text: a number's digits are those that were written.
    return sa.cast(sa.literal(f"{{{', '.join(members)}}}", sa.String), JSONB)


def _accessors(path: PayloadPath) -> str:
    return "".join(["$", *(f".{json.dumps(name)}" for name in path.members)])


class Predicate:
    """Writes what is compared with `@`, and gathers the values as variables."""

    def __init__(self) -> None:
        self.variables: list[str] = []
        """As members of a JSON object."""

    def write(self, leaf: OneOf | Compared | Between) -> str:
        match leaf:
            case OneOf(_, values):
                return " || ".join(part for value in values for part in self._equals(value))
            case Compared(_, operator, value):
                return self._beyond(operator, value)
            case Between(_, low, high):
                return f"{self._beyond(Operator.AT_LEAST, low)} && {self._beyond(Operator.AT_MOST, high)}"

    def _equals(self, value: Value) -> list[str]:
        match value:
            case Prefix(text):
                return [f"@ starts with {self._string(text)}"]
            case Number(text) | Constant(text):
                return [f"@ == {self._variable(text)}", f"@ == {self._string(text)}"]
            case _:
                return [f"@ == {self._string(text_of(value))}"]

    def _beyond(self, operator: Operator, value: Value) -> str:
        written = self._variable(value.text) if isinstance(value, Number) else self._string(text_of(value))
        return f"@ {operator.value} {written}"

    def _string(self, text: str) -> str:
        return self._variable(json.dumps(text, ensure_ascii=False))

    def _variable(self, value: str) -> str:
        name = f"v{len(self.variables)}"
        self.variables.append(f'"{name}": {value}')
        return f"${name}"
