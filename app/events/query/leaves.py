"""The leaves of a query: a word, a phrase, or a field with what it takes."""

import re
from dataclasses import dataclass
from typing import Final

from lark import Token

from app.events.query.faults import nearest, place_of
from app.events.query.fields import FIELDS, NAMED, ORDERED, PAYLOAD, Field
from app.events.query.grammar import MEMBER
from app.events.query.nodes import (
    Between,
    Compared,
    Has,
    Leaf,
    Name,
    Named,
    OneOf,
    Operator,
    PayloadPath,
    Place,
    Subject,
    Words,
)
from app.events.query.values import QUOTE, LeafFault, order, read_text, read_value, unquoted
from app.events.query.words import words_of

_MEMBER: Final = re.compile(rf"\.({MEMBER})")
_LIKE_A_FIELD: Final = re.compile(rf"({'|'.join(FIELDS)}|payload\.[^=]+)=")
_PATH: Final = re.compile(rf"{PAYLOAD}(?:\.{MEMBER})+")
_HAS: Final = "has"


@dataclass(frozen=True, slots=True)
class _Head:
    """What stands before a value; `operator` is None for a colon."""

    token: Token
    subject: Subject
    operator: Operator | None


def read_leaf(kind: str, tokens: list[Token]) -> Leaf:
    """The leaf that a rule of the grammar has found. Raises LeafFault."""
    match kind:
        case "term":
            return _term(tokens[0])
        case "phrase":
            return _words(unquoted(tokens[0]), tokens[0])
        case "has":
            return Has(_path(tokens[0], place_of(tokens[0]).offset))
        case "compared":
            return _compared(_head(tokens[0]), tokens[1])
        case "ranged":
            return _ranged(_head(tokens[0]), tokens[1], tokens[2])
        case _:
            return _listed(_head(tokens[0]), tokens[1:])


def _term(token: Token) -> Words:
    place = place_of(token)
    if found := _LIKE_A_FIELD.match(token):
        suggestion = f"{found[1]}:{token[found.end() :]}"
        raise LeafFault(place, f"A field and its value are joined by a colon. {QUOTE}", (suggestion,))
    if _PATH.fullmatch(token):
        raise LeafFault(place, f"A member of the payload needs a value, or has: before it. {QUOTE}", (f"has:{token}",))
    if any(sign in token for sign in ":<>"):
        raise LeafFault(place, f"No field has this name. {QUOTE}")
    if "*" in token:
        raise LeafFault(place, f"Words are found whole, so a * has no meaning here. {QUOTE}")
    return _words(str(token), token)


def _words(text: str, token: Token) -> Words:
    words = words_of(text)
    if not words:
        raise LeafFault(
            place_of(token), "This holds no word: letters and digits are found, other ASCII characters are not."
        )
    return Words(words)


def _head(token: Token) -> _Head:
    # The operator is the last thing in the token; a quoted member may hold one too.
    sign = token[-2:] if token[-2:] in {">=", "<="} else token[-1:]
    name = str(token[: -len(sign)])
    operator = None if sign == ":" else Operator(sign)
    subject: Subject
    if name.startswith(f"{PAYLOAD}."):
        subject = _path(name, place_of(token).offset)
    else:
        subject = _field(name, place_of(token).offset)
        if operator is not None and subject not in ORDERED:
            raise LeafFault(place_of(token), f"{name} has no order: write {name}:", (f"{name}:",))
    return _Head(token, subject, operator)


def _field(name: str, offset: int) -> Field:
    if (field := FIELDS.get(name)) is not None:
        return field
    place = Place(offset, len(name))
    if name == PAYLOAD:
        raise LeafFault(
            place, "Name a member of the payload, such as payload.customer; words are found without a field."
        )
    known = [*FIELDS, f"{PAYLOAD}.", _HAS]
    if name.lower() in FIELDS:
        suggestions: tuple[str, ...] = (name.lower(),)
    else:
        suggestions = nearest(name, known)
    fields = ", ".join([*(field.value for field in Field), f"{PAYLOAD}.…"])
    raise LeafFault(place, f"There is no field {_cut(name)}. Fields are {fields}. {QUOTE}", suggestions)


def _cut(name: str) -> str:
    return name if len(name) <= 64 else f"{name[:64]}…"


def _path(text: str, offset: int) -> PayloadPath:
    """The path in `text`, which begins at `offset` of the query."""
    members = []
    for member in _MEMBER.finditer(text):
        token = Token("MEMBER", member[1], offset + member.start(1))
        members.append(unquoted(token) if token.startswith('"') else member[1])
    return PayloadPath(tuple(members))


def _compared(head: _Head, token: Token) -> Leaf:
    if head.operator is None:
        return _one_of(head.subject, [token])
    return Compared(head.subject, head.operator, read_value(head.subject, token, is_ordered=True))


def _listed(head: _Head, tokens: list[Token]) -> Leaf:
    if head.operator is not None:
        raise LeafFault(place_of(head.token), "A list stands behind a colon: an event has any of its values.")
    return _one_of(head.subject, tokens)


def _one_of(subject: Subject, tokens: list[Token]) -> OneOf | Named:
    if isinstance(subject, Field) and subject in NAMED:
        return Named(subject, tuple(Name(read_text(subject, token), place_of(token)) for token in tokens))
    return OneOf(subject, tuple(read_value(subject, token) for token in tokens))


def _ranged(head: _Head, low: Token, high: Token) -> Between:
    place = place_of(head.token)
    if head.operator is not None:
        raise LeafFault(place, "A range stands behind a colon, such as payload.amount:10..20.")
    if isinstance(head.subject, Field) and head.subject not in ORDERED:
        raise LeafFault(place, f"{head.subject.value} has no order, so it takes no range. {QUOTE}")
    ends = [read_value(head.subject, token, is_ordered=True) for token in (low, high)]
    whole = Place(place_of(low).offset, place_of(high).offset + len(high) - place_of(low).offset)
    if type(ends[0]) is not type(ends[1]):
        raise LeafFault(
            whole, "Both ends of a range are numbers, or both are strings: quote the one that looks like a number."
        )
    if order(head.subject, ends[0]) > order(head.subject, ends[1]):
        raise LeafFault(whole, "This range ends before it begins.")
    return Between(head.subject, ends[0], ends[1])
