"""The tokens that every match must have, for the index that skips whole segments of events.

An event's tokens are the words of its payload (words.py: those of its names, strings and numbers), which hold no colon,
and `id:`, `type:`, `severity:`, `source:`, `key:` and `env:` with what it has of these, sources, keys and environments
by their inner ids; `below:` with each type that a policy `payment.*` could name; and `is:` with a member and its value,
if that is short. event_segments.sql writes them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

from app.events.query.fields import SEVERITIES, Field
from app.events.query.identity import read_shown_id
from app.events.query.nodes import (
    And,
    Between,
    Compared,
    Constant,
    Everything,
    Has,
    Leaf,
    Named,
    Node,
    Not,
    Number,
    OneOf,
    Or,
    PayloadPath,
    Prefix,
    String,
    Value,
    Words,
    negated,
    text_of,
)
from app.events.query.values import order
from app.events.query.words import words_of, written_number

_ID: Final = "id:"
_SHORT_BYTES: Final = 3
# What stands for any list or object.
_SEVERAL: Final = "["


@dataclass(frozen=True, slots=True)
class Token:
    """This word."""

    word: str


@dataclass(frozen=True, slots=True)
class AllOf:
    """All of two or more."""

    items: tuple["Tokens", ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Any of two or more."""

    items: tuple["Tokens", ...]


Tokens = Token | AllOf | AnyOf


def tokens(node: Node) -> Tokens | None:
    """What every match holds, but for those of named_events(); None if that is nothing that can be named."""
    match node:
        case And(items):
            return _all_of(map(tokens, items))
        case Or(items):
            return _any_of(map(tokens, items))
        case Not(Or(items)):
            return _all_of(tokens(negated(item)) for item in items)
        case Not(And(items)):
            return _any_of(tokens(negated(item)) for item in items)
        # A payload that lacks something need not hold anything in its place.
        case _:
            return None if isinstance(node, Not | Everything) else _of_leaf(node)


def named_events(wanted: Tokens) -> set[tuple[datetime, UUID]]:
    """When the events were received that ids of ours among the tokens name, and their uids.

    The token is that of an event whose producer has called it so; the event that we call so has another one.
    """
    if isinstance(wanted, Token):
        named = read_shown_id(wanted.word.removeprefix(_ID)) if wanted.word.startswith(_ID) else None
        return {named} if named else set()
    return set().union(*map(named_events, wanted.items))


def _of_leaf(leaf: Leaf) -> Tokens | None:
    match leaf:
        case Words(words):
            return _words(words)
        case Has(path):
            return _names(path)
        case OneOf(PayloadPath() as path, values):
            return _all_of([_names(path), _any_of(_of_member(path, value) for value in values)])
        case Compared(PayloadPath() as path) | Between(PayloadPath() as path):
            return _names(path)
        case _:
            return _of_scalar(leaf)


def _of_scalar(leaf: Leaf) -> Tokens | None:
    match leaf:
        case Named(subject, _, ids):
            return _any_of(Token(f"{subject.value}:{each}") for each in ids or ())
        case OneOf(Field.TYPE, values):
            return _any_of(map(_of_type, values))
        case OneOf(Field.ID, values):
            return _any_of(Token(f"{_ID}{it.text}") if isinstance(it, String) else None for it in values)
        case OneOf(Field.SEVERITY) | Compared(Field.SEVERITY) | Between(Field.SEVERITY):
            return _any_of(Token(f"severity:{each}") for each in _severities(leaf))
        case _:
            return None


def _of_type(value: Value) -> Tokens | None:
    match value:
        case String(text):
            return Token(f"type:{text}")
        case Prefix(text) if text.endswith("."):
            return Token(f"below:{text.removesuffix('.')}")
        case _:
            return None


def _severities(leaf: OneOf | Compared | Between) -> list[str]:
    match leaf:
        case OneOf(_, values):
            return [text_of(value) for value in values]
        case Compared(_, operator, value):
            reached = order(Field.SEVERITY, value)
            return [each for each in SEVERITIES if operator.holds(order(Field.SEVERITY, String(each)), reached)]
        case Between(_, low, high):
            return list(SEVERITIES[order(Field.SEVERITY, low) : order(Field.SEVERITY, high) + 1])


def _names(path: PayloadPath) -> Tokens | None:
    return _words(word for name in path.members for word in words_of(name))


def _of_member(path: PayloadPath, value: Value) -> Tokens | None:
    """Its words; and a short value of an outer member together with its name, or that a list or an object is there."""
    texts = _stored_texts(value)
    if len(path.members) > 1 or not texts or not all(map(_is_short, texts)):
        return _of_value(value)
    (name,) = path.members
    return _all_of([_of_value(value), _any_of(Token(f"is:{name}:{text}") for text in (*texts, _SEVERAL))])


def _stored_texts(value: Value) -> tuple[str, ...]:
    """The texts of all values that equal it, numbers without the zeros at their end; none if they cannot be known."""
    match value:
        case String(text) | Constant(text):
            return (text,)
        case Number(text):
            number = Decimal(text)
            digits = format(number.normalize(), "f") if abs(number.adjusted()) <= _SHORT_BYTES else text
            return (digits if number else "0", text)
        case _:
            return ()


def _is_short(text: str) -> bool:
    return len(text.encode()) <= _SHORT_BYTES or text in ("true", "false", "null")


def _of_value(value: Value) -> Tokens | None:
    match value:
        case String(text):
            return _words(words_of(text))
        case Number(text):
            # The zeros at its end are those of the stored number, so only what stands before the point is known.
            whole = written_number(Decimal(text)).lstrip("-").partition(".")[0]
            return _any_of([Token(whole), _words(words_of(text))])
        case Prefix(text):
            # The last word may go on, unless something that separates stands behind it.
            return _words(words_of(f"{text}a")[:-1])
        case _:
            return None


def _words(words: Iterable[str]) -> Tokens | None:
    return _all_of(map(Token, words))


def _all_of(items: Iterable[Tokens | None]) -> Tokens | None:
    flat = [part for item in items if item for part in (item.items if isinstance(item, AllOf) else (item,))]
    kept = tuple(dict.fromkeys(flat))
    return (AllOf(kept) if len(kept) > 1 else kept[0]) if kept else None


def _any_of(items: Iterable[Tokens | None]) -> Tokens | None:
    """None if one of them is, or if there is none: then nothing can be said."""
    flat: list[Tokens] = []
    for item in items:
        if item is None:
            return None
        flat += item.items if isinstance(item, AnyOf) else (item,)
    kept = tuple(dict.fromkeys(flat))
    return (AnyOf(kept) if len(kept) > 1 else kept[0]) if kept else None
