"""Text and node: which query a text is, that its printed form is the same query, and what no text can do."""

import random

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings

from app.errors import Fault, SchemaValidationFailed
from app.events.query import parsing
from app.events.query.nodes import Everything, Node, Not, negated
from app.events.query.parsing import parse
from app.events.query.printing import print_query
from tests.events.query.strategies import fragments, queries
from tests.support.examples import examples

_any_machine = hypothesis_settings(max_examples=examples(250), deadline=None, derandomize=True)
_FRAGMENTS = list(fragments())
_FEW, _MANY = 2_000, 100_000


@_any_machine
@given(node=queries)
def test_a_printed_query_is_parsed_to_the_same_query(node: Node) -> None:
    assert parse(print_query(node)) == node


@_any_machine
@given(node=queries.filter(lambda node: not isinstance(node, Everything)))
def test_a_negation_twice_is_nothing(node: Node) -> None:
    text = print_query(node)

    assert negated(negated(node)) == node
    assert parse(f"-(-({text}))") == parse(f"NOT NOT ({text})") == parse(f"-NOT({text})") == node
    assert parse(f"-({text})") == (node.item if isinstance(node, Not) else Not(node))


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("", ""),
        ("  ", ""),
        ("a  b\n c", "a b c"),
        ("a AND b", "a b"),
        ("a OR b c", "a OR b c"),
        ("(a OR b) c", "(a OR b) c"),
        ("(a b) OR ((c))", "a b OR c"),
        ("NOT a b", "-a b"),
        ("NOT (a b)", "-(a b)"),
        ("-(a OR b)", "-(a OR b)"),
        ("-5", "-5"),
        ("or and not", "or and not"),
        ('"OR"', "or"),
        ("Card_Declined", '"card declined"'),
        ("user@shop.example", '"user shop example"'),
        ("env:a environment:b", "env:a env:b"),
        ('type:["a", b]', "type:[a, b]"),
        ("type:[a]", "type:a"),
        ("payload.a:[ 1 , x*,true ]", "payload.a:[1, x*, true]"),
        ('payload.a:["1", "x*", "true"]', 'payload.a:["1", "x*", "true"]'),
        ('payload.a:"plain"', "payload.a:plain"),
        ("payload.url:https://shop.example/", "payload.url:https://shop.example/"),
        ('payload.a:"say \\"no\\" \\\\"', 'payload.a:"say \\"no\\" \\\\"'),
        ('payload."card type"."x":1', 'payload."card type".x:1'),
        ('payload."a:b>=".c<2', 'payload."a:b>=".c<2'),
        ("payload.a:OR", "payload.a:OR"),
        ("payload.a:-5..-1", "payload.a:-5..-1"),
        ('payload.a:"a."..b', 'payload.a:"a."..b'),
        ("payload.a>=x", "payload.a>=x"),
        ("has:payload.a.b", "has:payload.a.b"),
        ("timestamp>=2026-06-01T12:00:00.5+02:00", "timestamp>=2026-06-01T10:00:00.500000Z"),
        ('timestamp<"2026-06-01 10:00:00Z"', "timestamp<2026-06-01T10:00:00Z"),
    ],
)
def test_a_query_has_one_spelling(text: str, normalized: str) -> None:
    assert print_query(parse(text)) == normalized
    assert parse(normalized) == parse(text)


def _check(text: str) -> None:
    """It is a query, or has faults with places in the text."""
    faults: tuple[Fault, ...] = ()
    node: Node | None = None
    try:
        node = parse(text)
    except SchemaValidationFailed as refusal:
        faults = refusal.faults
    if node is not None:
        assert parse(print_query(node)) == node
    assert (node is None) is bool(faults)
    for fault in faults:
        assert fault.offset is not None
        assert fault.length is not None
        assert 0 <= fault.offset <= fault.offset + fault.length <= len(text)


def _random_texts(count: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    return ["".join(chance.choices(_FRAGMENTS, k=chance.randrange(1, 25))) for _ in range(count)]


def test_any_text_is_a_query_or_has_faults_with_places() -> None:
    for text in _random_texts(_FEW, seed=1):
        _check(text)


@pytest.mark.slow
def test_any_of_very_many_texts_is_a_query_or_has_faults_with_places() -> None:
    for text in _random_texts(_MANY, seed=2):
        _check(text)


@pytest.mark.parametrize(
    "text",
    [
        *("(" * 2_000, ")" * 2_000, "(" * 1_000 + ")" * 1_000, "(" * 999 + "a" + ")" * 999, "(a " * 600),
        *("-" * 2_000, "-" * 1_999 + "a", "NOT " * 500, "NOT " * 499 + "a", "a OR " * 400, "-(" * 900 + "a"),
        *('"' * 2_000, '"' * 1_999, "\\" * 2_000, '"' + "\\" * 1_998 + '"', 'payload."' * 200, '."' * 900),
        *("a." * 1_000, "payload." * 250, 'payload."a".' * 150, "a:" * 1_000, "_" * 1_999 + "a", "_a" * 1_000),
        *("[" * 2_000, "payload.a:[" + "b," * 900, "payload.a:" + "[" * 1_900, "." * 2_000, "*" * 2_000),
        *("payload.a:" + "9" * 1_900, "payload.a:1e" + "9" * 1_900, "9" * 2_000, "a" * 2_000, " " * 2_000),
        *("\0" * 2_000, "é" * 2_000, "\U0001f600 " * 1_000, "\ud800", "a" * 100_000, "(" * 100_000),
    ],
)
def test_no_long_text_does_any_harm(text: str) -> None:
    _check(text)


@pytest.mark.parametrize("text", ["a" * 2_001, "(" * 100_000, "a\0", "\ud800"])
def test_the_parser_never_sees_what_is_too_long_or_cannot_be_stored(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "PARSER", None)

    with pytest.raises(SchemaValidationFailed):
        parse(text)


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("(" * 2_000, 16),
        ("-" * 1_999 + "a", 16),
        ("NOT " * 499 + "a", 64),
        ("-(" * 900 + "a", 16),
        ("a " * 1_000, 200),
        ("payload.x:[" + "a," * 900, 211),
        ("payload.x:1..2 " * 100, 760),
    ],
)
def test_the_first_word_or_level_too_many_ends_the_work(text: str, offset: int) -> None:
    with pytest.raises(SchemaValidationFailed) as refused:
        parse(text)

    (fault,) = refused.value.faults
    assert fault.offset == offset


def test_as_many_words_and_levels_as_are_allowed_are_a_query() -> None:
    deepest = "(" * 16 + "a" + ")" * 16

    assert print_query(parse(deepest)) == "a"
    assert print_query(parse("(" * 15 + "-a" + ")" * 15)) == "-a"
    assert print_query(parse(" ".join([f"({'a OR b'})"] * 50))).count("OR") == 50


def test_a_query_that_is_too_long_when_it_is_written_out_is_refused() -> None:
    """What is kept and shown is the printed text, and must be a query again."""
    backslashes = "payload.a:" + "\\" * 980
    assert len(print_query(parse(backslashes))) == len('payload.a:""') + 2 * 980

    with pytest.raises(SchemaValidationFailed):
        parse(f"{backslashes} {backslashes}")
