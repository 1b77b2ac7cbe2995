"""Queries and events for hypothesis, of few names, texts and numbers, so that queries find something."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

from app.events.query.fields import SEVERITIES, Field
from app.events.query.identity import shown_id
from app.events.query.nodes import (
    Between,
    Compared,
    Constant,
    Everything,
    Has,
    Leaf,
    Moment,
    Name,
    Named,
    Node,
    Number,
    OneOf,
    Operator,
    PayloadPath,
    Prefix,
    String,
    Value,
    Words,
    all_of,
    any_of,
    negated,
)
from app.events.query.resolution import KnownNames
from app.events.query.values import CONSTANTS, order
from app.events.query.words import words_of

_SPACED = ["a       b", "  -", "  --  ", "-   -", "a    -b"]
# U+1F600 sorts behind U+FFFF as a code point, and before it in UTF-16.
_TEXTS = [
    *("card declined", "Card_Declined", "declined", "card", "a card declined here", "fraud", "cardé", "é", "É"),
    *("49.990", "49.99", "1e2", "100", "-5", "5", "true", "null", "false", "", " ", "-", "a..b", "x,y", "a.", ".a"),
    *(
        '"',
        "\\",
        "\\u0041",
        "a\nb",
        "\x1f",
        "\x7f",
        "\u00a0",
        "\uffff",
        "\U0001f600",
        "evt_1",
        "or",
        "OR",
        "a:b",
        "[a]",
    ),
]
_CLOSE = ["card declined", "49.990", "100"]
_NUMBERS = [
    *("49.99", "49.990", "100", "1e2", "1E+2", "100.00", "-5", "5", "0", "-0", "-0.0", "0e5", "1e-7", "0.1", "1.0e1"),
    *("1e30", "9007199254740993", "9007199254740992", "123456789012345678901234567890.1", "1e-300"),
]
_NAMES = ["a", "b", "card", "reason", "card type", "é", "$x-y@1", "", 'q"\\', "a.b", "true", "\U0001f600"]
_TYPES = ["payment", "payment.failed", "payment.card.failed", "payments.x", "login"]
_MOMENTS = [datetime(2026, 6, 1, 10, tzinfo=UTC) + timedelta(microseconds=n * 499_999) for n in range(4)]
_UIDS = [UUID(int=n) for n in (0, 1, 2**128 - 1)]
_IDS = ["evt_1", "evt_2", "evu_1", "order 7", *(shown_id(_MOMENTS[0], uid) for uid in _UIDS)]
_SOURCES = {"src_1": 1, "src_2": 2}
_KEYS = {"key_1": 11, "key_2": 12}
_ENVIRONMENTS = {"production": (21,), "env_p": (21,), "old name": (22, 23), "env_q": (22,), "env_r": (23,)}
KNOWN = KnownNames(sources=_SOURCES, keys=_KEYS, environments=_ENVIRONMENTS)

_wide_numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,9})?(e[+-]?[0-9]{1,2})?", fullmatch=True)
_wide_texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4)
# Mostly the same few, so that what is asked for is often there.
numbers = st.one_of(st.sampled_from(_NUMBERS[:3]), st.sampled_from(_NUMBERS), _wide_numbers)
texts = st.one_of(
    st.sampled_from(_CLOSE), st.sampled_from(_CLOSE), st.sampled_from(_TEXTS), st.sampled_from(_SPACED), _wide_texts
)
names = st.one_of(st.just("a"), st.just("a"), st.just("b"), st.sampled_from(_NAMES))
paths = st.one_of(
    st.just(("a",)), st.just(("a",)), st.tuples(names), st.tuples(names, names), st.tuples(names, names, names)
).map(PayloadPath)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """An event as its row has it and as callers are shown it."""

    received_at: datetime
    event_uid: UUID
    environment_id: str
    source_id: str
    key_id: str
    event_id: str
    event_type: str
    severity: str
    timestamp: datetime
    payload: dict[str, Any]

    @property
    def id(self) -> str:
        return shown_id(self.received_at, self.event_uid)

    @property
    def environment(self) -> str:
        return "production" if self.environment_id == "env_p" else "old name"

    @property
    def row(self) -> tuple[Any, ...]:
        """The columns of readable_events, the payload as text."""
        ids = (_ENVIRONMENTS[self.environment_id][0], _SOURCES[self.source_id], _KEYS[self.key_id])
        shown = (self.event_id, self.event_type, self.severity, self.timestamp, written(self.payload))
        return (1, self.received_at, self.event_uid, 1, *ids, *shown, False, 1)


def written(value: Any) -> str:
    """As JSON, numbers as they are."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(name)}: {written(member)}' for name, member in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value)


def _number(text: str) -> int | Decimal:
    return int(text) if text.lstrip("-").isdecimal() else Decimal(text)


_scalars = numbers.map(_number) | texts | st.sampled_from([True, False, None])
_inner = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=5,
)
payloads = st.fixed_dictionaries({"a": _inner, "b": _scalars}, optional=dict.fromkeys(_NAMES[2:], _scalars))
payloads |= st.dictionaries(names, _inner, max_size=3)
events = st.builds(
    Stored,
    received_at=st.sampled_from(_MOMENTS),
    event_uid=st.sampled_from(_UIDS),
    environment_id=st.sampled_from(["env_p", "env_q", "env_r"]),
    source_id=st.sampled_from(sorted(_SOURCES)),
    key_id=st.sampled_from(sorted(_KEYS)),
    event_id=st.sampled_from(_IDS),
    event_type=st.sampled_from(_TYPES),
    severity=st.sampled_from(SEVERITIES),
    timestamp=st.sampled_from(_MOMENTS),
    payload=payloads,
)

# A prefix is only written bare.
_prefixes = st.sampled_from(["c", "card", "a", "4", "é", "pay", "payment.", "evt_", "evu_", "49.", "card_", ".a"]).map(
    Prefix
)
_moments = st.sampled_from(_MOMENTS).map(Moment)
_severities = st.sampled_from(SEVERITIES).map(String)
_numbers = numbers.map(Number)
_strings = texts.map(String)
_payload_values = _numbers | _strings | st.sampled_from(sorted(CONSTANTS)).map(Constant) | _prefixes
_operators = st.sampled_from(Operator)


def _several(values: st.SearchStrategy[Value]) -> st.SearchStrategy[tuple[Value, ...]]:
    return st.lists(values, min_size=1, max_size=3).map(tuple)


def _between(subject: st.SearchStrategy[Any], *ends: st.SearchStrategy[Any]) -> st.SearchStrategy[Leaf]:
    def leaf(where: Any, pair: tuple[Any, Any]) -> Leaf:
        low, high = sorted(pair, key=lambda value: order(where, value))
        return Between(where, low, high)

    return st.builds(leaf, subject, st.one_of([st.tuples(end, end) for end in ends]))


def _named(field: Field, known: list[str]) -> st.SearchStrategy[Leaf]:
    chosen = st.lists(st.sampled_from(known).map(Name), min_size=1, max_size=2).map(tuple)
    return st.builds(Named, st.just(field), chosen)


leaves: st.SearchStrategy[Leaf] = st.one_of(
    texts.map(words_of).filter(bool).map(Words),
    paths.map(Has),
    st.builds(OneOf, paths, _several(_payload_values)),
    st.builds(Compared, paths, _operators, _numbers | _strings),
    _between(paths, _numbers, _strings),
    st.builds(OneOf, st.just(Field.TYPE), _several(st.sampled_from(_TYPES).map(String) | _prefixes)),
    st.builds(OneOf, st.just(Field.ID), _several(st.sampled_from(_IDS).map(String) | _prefixes)),
    st.builds(OneOf, st.just(Field.SEVERITY), _several(_severities)),
    st.builds(Compared, st.just(Field.SEVERITY), _operators, _severities),
    _between(st.just(Field.SEVERITY), _severities),
    st.builds(OneOf, st.just(Field.TIMESTAMP), _several(_moments)),
    st.builds(Compared, st.just(Field.TIMESTAMP), _operators, _moments),
    _between(st.just(Field.TIMESTAMP), _moments),
    _named(Field.SOURCE, sorted(_SOURCES)),
    _named(Field.KEY, sorted(_KEYS)),
    _named(Field.ENVIRONMENT, sorted(_ENVIRONMENTS)),
)


def _joined(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    several = st.lists(inner, min_size=2, max_size=3)
    return several.map(all_of) | several.map(any_of) | inner.map(negated)


queries: st.SearchStrategy[Node] = st.recursive(leaves, _joined, max_leaves=8) | st.just(Everything())


def combined(atoms: st.SearchStrategy[str], max_leaves: int) -> st.SearchStrategy[str]:
    """Queries as text, of simple ones."""
    return st.recursive(
        atoms,
        lambda inner: st.one_of(
            st.lists(inner, min_size=2, max_size=3).map(" ".join),
            st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({' OR '.join(parts)})"),
            inner.map(lambda part: f"-({part})"),
        ),
        max_leaves=max_leaves,
    )


def true_of(payload: dict[str, Any]) -> Iterator[Leaf]:
    """Leaves that an event of this payload fulfils."""
    for members, value in _members((), payload):
        path = PayloadPath(members)
        yield Has(path)
        for it in value if isinstance(value, list) else [value]:
            if isinstance(it, str):
                yield OneOf(path, (String(it),))
                yield Compared(path, Operator.AT_MOST, String(it))
                yield Between(path, String(it), String(it))
                yield from (Words((word,)) for word in words_of(it))
            elif isinstance(it, bool) or it is None:
                yield OneOf(path, (Constant(json.dumps(it)),))
            elif isinstance(it, int | Decimal):
                number = Number(written(it))
                yield OneOf(path, (String("else"), number))
                yield Compared(path, Operator.AT_LEAST, number)
                yield Between(path, number, number)


def _members(above: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    for element in value if isinstance(value, list) else [value]:
        for name, member in element.items() if isinstance(element, dict) else ():
            yield (*above, name), member
            yield from _members((*above, name), member)


def fragments() -> Iterator[str]:
    """Of what queries are made, right ones and others."""
    yield from ("(", ")", " ", " ", " OR ", " AND ", "NOT ", "-", "- ", '"', "[", "]", ",", "..", "*", "\\", "=", ":")
    yield from (
        ">",
        "<=",
        "has:",
        "payload.",
        "payload",
        'payload."a b".',
        "type:",
        "severity>=",
        "env:",
        "id:",
        "key:",
    )
    yield from ("timestamp<", "2026-06-01T10:00:00Z", "error", "fatal", "evu_", "card declined", "49.90", "1e999", "-5")
    yield from ("\0", "\ud800", "é", "\U0001f600", "\n", "\u00a0", "true", "a", "b", '"x y"', '"\\""', "payload.a:")
