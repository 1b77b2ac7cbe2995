"""Node → text: the one spelling of a query, which parses to the same node again."""

import re
from typing import Final

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
    Or,
    PayloadPath,
    Prefix,
    String,
    Subject,
    Value,
    Words,
    text_of,
)
from app.events.query.values import CONSTANTS, NUMBER

# Fewer characters than the grammar takes: these mean themselves in every place where a value stands.
_PLAIN: Final = re.compile(r"(?:(?!\.\.)(?:[A-Za-z0-9_$@/.:+-]|[^\x00-\x7f\s]))+(?<!\.)")
_PLAIN_WORD: Final = re.compile(r"(?:[a-z0-9]|[^\x00-\x7f\s])+")
_PLAIN_MEMBER: Final = re.compile(r"(?:[A-Za-z0-9_$@-]|[^\x00-\x7f\s])+")


def print_query(node: Node) -> str:
    """The query as text; "" is everything."""
    match node:
        case Everything():
            return ""
        case Or(items):
            return " OR ".join(map(print_query, items))
        case And(items):
            return " ".join(map(_operand, items))
        case Not(item):
            return f"-{_operand(item, And)}"
        case _:
            return _leaf(node)


def _leaf(leaf: Leaf) -> str:
    match leaf:
        case Words(words):
            phrase = " ".join(words)
            return phrase if _PLAIN_WORD.fullmatch(phrase) else _quoted(phrase)
        case Has(path):
            return f"has:{_subject(path)}"
        case OneOf(subject, values):
            return f"{_subject(subject)}:{_listed([_value(value, subject) for value in values])}"
        case Named(field, names):
            return f"{field.value}:{_listed([_plain_or_quoted(name.text) for name in names])}"
        case Compared(subject, operator, value):
            return f"{_subject(subject)}{operator.value}{_value(value, subject)}"
        case Between(subject, low, high):
            return f"{_subject(subject)}:{_value(low, subject)}..{_value(high, subject)}"


def _operand(node: Node, *looser: type[Node]) -> str:
    """With parentheses if it holds less tightly than what it stands in."""
    text = print_query(node)
    return f"({text})" if isinstance(node, (Or, *looser)) else text


def _subject(subject: Subject) -> str:
    if isinstance(subject, Field):
        return subject.value
    members = (name if _PLAIN_MEMBER.fullmatch(name) else _quoted(name) for name in subject.members)
    return ".".join(["payload", *members])


def _listed(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def _value(value: Value, subject: Subject) -> str:
    match value:
        case Prefix(text):
            return f"{text}*"
        case Number() | Constant() | Moment():
            return text_of(value)
        case String(text):
            means_more = isinstance(subject, PayloadPath) and (text in CONSTANTS or NUMBER.fullmatch(text))
            return _quoted(text) if means_more else _plain_or_quoted(text)


def _plain_or_quoted(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else _quoted(text)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
