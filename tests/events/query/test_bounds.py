"""What every match of a query has in common: its upper bound in the hourly counts, and the words of its payload."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.events.query.bounds import is_rollup, upper_bound
from app.events.query.evaluation import matches
from app.events.query.nodes import Node, all_of
from app.events.query.parsing import parse
from app.events.query.printing import print_query
from app.events.query.resolution import bound
from app.events.query.tokens import AllOf, AnyOf, Token, Tokens, named_events, tokens
from app.events.query.words import event_text
from tests.events.query.strategies import KNOWN, Stored, events, queries, true_of
from tests.support.examples import examples

_any_machine = hypothesis_settings(max_examples=examples(60), deadline=None, derandomize=True)
_cases = given(stored=events, asked=st.lists(queries, min_size=5, max_size=10))


def _found(stored: Stored, asked: list[Node]) -> list[Node]:
    """Of the queries, those that find the event; some do for sure."""
    sure = list(true_of(stored.payload))
    return [*(node for node in asked if matches(node, stored)), *sure, all_of(sure)]


@_any_machine
@_cases
def test_what_a_query_finds_its_upper_bound_finds(stored: Stored, asked: list[Node]) -> None:
    for node in _found(stored, asked):
        assert is_rollup(upper_bound(node))
        assert matches(upper_bound(node), stored)


@_any_machine
@_cases
def test_the_upper_bound_of_what_the_counts_can_say_is_the_same_query(stored: Stored, asked: list[Node]) -> None:
    for node in filter(is_rollup, asked):
        assert matches(upper_bound(node), stored) is matches(node, stored)


@pytest.mark.parametrize(
    ("query", "bound"),
    [
        ("type:a timeout severity>=error", "type:a severity>=error"),
        ("type:a OR timeout", ""),
        ("type:a OR type:b timeout", "type:a OR type:b"),
        ("-(type:a timeout)", ""),
        ("-(type:a OR timeout)", "-type:a"),
        ("-(type:a env:b)", "-type:a OR -env:b"),
        ("source:a key:b -payload.c:d", "source:a key:b"),
        ("timestamp>2026-06-01T10:00:00Z id:a", ""),
        ("", ""),
    ],
)
def test_the_upper_bound_keeps_what_the_counts_can_say(query: str, bound: str) -> None:
    assert print_query(upper_bound(parse(query))) == bound


def _holds(asked: Tokens | None, words: set[str]) -> bool:
    match asked:
        case None:
            return True
        case Token(word):
            return word in words
        case AllOf(items):
            return all(_holds(item, words) for item in items)
        case AnyOf(items):
            return any(_holds(item, words) for item in items)


def _member(value: Any) -> str:
    """A member's value as its token has it; the index has those of short ones alone."""
    if isinstance(value, dict | list):
        return "["
    if isinstance(value, str):
        return value
    if isinstance(value, bool | None):
        return {True: "true", False: "false", None: "null"}[value]
    return format(Decimal(value).normalize(), "f") if value else "0"


@_any_machine
@_cases
def test_a_match_has_the_tokens(stored: Stored, asked: list[Node]) -> None:
    types = stored.event_type.split(".")
    has = {
        *event_text(stored.payload).split(" "),
        f"id:{stored.event_id}",
        f"type:{stored.event_type}",
        *(f"below:{'.'.join(types[:n])}" for n in range(1, len(types))),
        f"severity:{stored.severity}",
        *(f"{kind}:{row}" for kind, row in zip(("env", "source", "key"), stored.row[4:7], strict=True)),
        *(f"is:{name}:{_member(value)}" for name, value in stored.payload.items()),
    }
    for node in _found(stored, asked):
        wanted = tokens(bound(node, KNOWN))
        is_named = wanted is not None and (stored.received_at, stored.event_uid) in named_events(wanted)
        assert is_named or _holds(wanted, has), node


def _shown(asked: Tokens | None) -> str:
    match asked:
        case None:
            return ""
        case Token(word):
            return word
        case AllOf(items):
            return f"({' '.join(map(_shown, items))})"
        case AnyOf(items):
            return f"({' OR '.join(map(_shown, items))})"


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("card_declined timeout", "(card declined timeout)"),
        ("payload.reason:card_declined", "(reason card declined)"),
        ("payload.reason:[card, fraud]", "(reason (card OR fraud))"),
        ("payload.reason:card_decl*", "(reason card)"),
        ("payload.reason:card_*", "(reason card)"),
        ("type:payment.failed", "type:payment.failed"),
        ("type:[payment.*, order.created] timeout", "((below:payment OR type:order.created) timeout)"),
        ("type:pay*", ""),
        ("severity>=error", "(severity:error OR severity:critical)"),
        ("severity:info..warning", "(severity:info OR severity:warning)"),
        ("severity>critical", ""),
        ("payload.amount:49.990", "(amount (49 OR (49 990)))"),
        ("payload.amount:1e2", "(amount (100 OR 1e2) (is:amount:100 OR is:amount:1e2 OR is:amount:[))"),
        ("payload.amount:-5", "(amount 5 (is:amount:-5 OR is:amount:[))"),
        ("payload.amount>100", "amount"),
        ('has:payload."card type".x', "(card type x)"),
        ("payload.a:true", "(a (is:a:true OR is:a:[))"),
        ("payload.a.b:true", "(a b)"),
        ("payload.amount:1000", "(amount 1000)"),
        ("payload.amount:5.0000", "(amount (5 OR (5 0000)))"),
        ("a OR b", "(a OR b)"),
        ("a OR type:x", "(a OR type:x)"),
        ("a OR id:x*", ""),
        ("a id:[x, y]", "(a (id:x OR id:y))"),
        ("id:evu_1Ndc8mS4fsioTQ12FVr3gOG9maaaaaaaa", "id:evu_1Ndc8mS4fsioTQ12FVr3gOG9maaaaaaaa"),
        ("id:evu_1", "id:evu_1"),
        ("-a", ""),
        ("-(-a OR type:x)", "a"),
        ("-(-a -b)", "(a OR b)"),
        ("type:x severity:error", "(type:x severity:error)"),
        ("", ""),
    ],
)
def test_tokens_are_the_words_that_a_match_cannot_lack(query: str, asked: str) -> None:
    assert _shown(tokens(parse(query))) == asked
