"""Reads one value of a query: what a bare or quoted text means behind a field."""

import re
from datetime import UTC
from decimal import Decimal
from typing import Any, Final

from lark import Token

from app.events.query.faults import nearest, place_of
from app.events.query.fields import SEVERITIES, Field
from app.events.query.nodes import Constant, Moment, Number, Place, Prefix, String, Subject, Value, text_of
from app.wire.json_numbers import UnreadableNumber, read_number
from app.wire.rfc3339 import read_moment

CONSTANTS: Final = frozenset({"true", "false", "null"})
NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
QUOTE: Final = "To look for this very text, quote it."
_BACKSLASH: Final = re.compile(r"\\(.)", re.DOTALL)


class LeafFault(Exception):  # noqa: N818 - the glossary's word
    """What is wrong with a leaf, and where."""

    def __init__(self, place: Place, message: str, suggestions: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.place = place
        self.message = message
        self.suggestions = suggestions


def unquoted(token: Token) -> str:
    """What stands in quotes. Raises LeafFault."""
    for escape in _BACKSLASH.finditer(token):
        if escape[1] not in {'"', "\\"}:
            place = Place(place_of(token).offset + escape.start(), 2)
            raise LeafFault(place, 'Within quotes, a backslash is written \\\\ and a quote \\".')
    return _BACKSLASH.sub(r"\1", token[1:-1])


def read_text(subject: Field, token: Token) -> str:
    """The text that `token` writes for a field that takes whole texts only. Raises LeafFault."""
    if token.startswith('"'):
        return unquoted(token)
    text = _bare(token)
    if text.endswith("*"):
        raise LeafFault(
            place_of(token), f"A * is taken for type, id and members of the payload, not for {subject.value}."
        )
    return text


def read_value(subject: Subject, token: Token, *, is_ordered: bool = False) -> Value:
    """The value that `token` writes for a field or a member of the payload. Raises LeafFault."""
    if subject is Field.SEVERITY:
        return _severity(read_text(subject, token), token)
    if subject is Field.TIMESTAMP:
        return _moment(read_text(subject, token), token)
    if token.startswith('"'):
        return String(unquoted(token))
    text = _bare(token)
    if text.endswith("*"):
        return _prefix(text, token, is_ordered=is_ordered)
    return String(text) if isinstance(subject, Field) else _payload_value(text, token, is_ordered=is_ordered)


def _bare(token: Token) -> str:
    text = str(token)
    if text[0] in "<>=":
        raise LeafFault(
            place_of(token), f"A comparison stands in the place of the colon, such as severity>=error. {QUOTE}"
        )
    if "*" in text[:-1]:
        raise LeafFault(place_of(token), f"A * may only stand at the end of a value. {QUOTE}")
    if ".." in text:
        raise LeafFault(place_of(token), f"A range does not stand in a list. {QUOTE}")
    return text


def _prefix(text: str, token: Token, *, is_ordered: bool) -> Prefix:
    if is_ordered:
        raise LeafFault(place_of(token), f"What begins in some way has no order. {QUOTE}")
    if text == "*":
        raise LeafFault(place_of(token), f"Before the * stands how the value begins. {QUOTE}")
    return Prefix(text[:-1])


def _payload_value(text: str, token: Token, *, is_ordered: bool) -> Value:
    if NUMBER.fullmatch(text):
        return _number(text, token)
    return Constant(text) if text in CONSTANTS and not is_ordered else String(text)


def _number(text: str, token: Token) -> Number:
    try:
        read_number(text)
    except UnreadableNumber:
        raise LeafFault(place_of(token), f"No stored number is so large or so long. {QUOTE}") from None
    return Number(text)


def _severity(text: str, token: Token) -> String:
    if text not in SEVERITIES:
        message = f"A severity is one of: {', '.join(SEVERITIES)}."
        raise LeafFault(place_of(token), message, nearest(text.lower(), SEVERITIES))
    return String(text)


def _moment(text: str, token: Token) -> Moment:
    try:
        return Moment(read_moment(text, needs_offset=True).astimezone(UTC))
    except ValueError as error:
        raise LeafFault(place_of(token), str(error)) from None


def order(subject: Subject, value: Value) -> Any:
    """What values of one subject and kind are compared by."""
    match value:
        case Number(text):
            return Decimal(text)
        case Moment(moment):
            return moment
        case String(text) if subject is Field.SEVERITY:
            return SEVERITIES.index(text)
        case _:
            # By code points, as jsonpath compares strings.
            return text_of(value)
