"""What is said of a text that is no query: where, why, and what may have been meant."""

import pytest

from app.errors import SchemaValidationFailed
from app.events.query.parsing import parse


def _faults(text: str) -> list[tuple[int | None, int | None, str]]:
    with pytest.raises(SchemaValidationFailed) as refused:
        parse(text)
    return [(fault.offset, fault.length, fault.message) for fault in refused.value.faults]


@pytest.mark.parametrize(
    ("text", "place", "part"),
    [
        ("type: x", "type:", "directly"),
        ("a type:", "type:", "must follow"),
        ("a - b", "-", "directly behind it"),
        ("a -", "-", "directly behind it"),
        ("a OR", "OR", "must follow OR"),
        ("(a NOT )", "NOT", "must follow NOT"),
        ("a AND OR b", "AND", "must follow AND"),
        ("OR a", "OR", "must stand before OR"),
        ("(AND a)", "AND", "must stand before AND"),
        ("a (b", "(", "not closed"),
        ("a b)", ")", "closes none"),
        ("a () b", ")", "Nothing stands"),
        ('a "b c', '"b', "not closed"),
        ("has:customer", "has:", "has:payload.customer"),
        ("has: payload.a", "has:", "has:payload.customer"),
        ("payload.a:[b,", "[", "list"),
        ("payload.a:[]", "[", "list"),
        ("payload.a:[b c]", "[", "list"),
        ("payload.a:(b OR c)", "payload.a:", "brackets: payload.a:[a, b]"),
        ("payload.a>[b]", "payload.a>", "list"),
        ("payload.a:[1..2]", "1..2", "quote it"),
        ("payload.a:>5", ">5", "in the place of the colon"),
        ("payload.a:1..", "..", "both ends"),
        ("payload.a:1 ..2", "..", "both ends"),
        ("payload.a:1.. 2", "..", "both ends"),
        ("payload.a:2..1", "2..1", "ends before it begins"),
        ("payload.a:1..b", "1..b", "numbers"),
        ("payload.a>1..2", "payload.a>", "behind a colon"),
        ("payload.a>b*", "b*", "no order"),
        ("payload.a:b*c", "b*c", "end of a value"),
        ("payload.a:**", "**", "end of a value"),
        ("payload.a:*", "*", "how the value begins"),
        ("payload.a:1e999", "1e999", "quote it"),
        ('payload.a:"b\\n"', "\\n", "backslash"),
        ('payload."b\\n":c', "\\n", "backslash"),
        ("payload:a", "payload", "payload.customer"),
        ("type>a", "type>", "no order"),
        ("type:a..b", "type:", "no order"),
        ("source:a*", "a*", "not for source"),
        ("severity:fatal", "fatal", "one of"),
        ("timestamp>2026-06-01", "2026-06-01", "offset"),
        ("timestamp>yesterday", "yesterday", "Send a time"),
        ("f(1)", "(", "space"),
        ('a"b"', '"b"', "space"),
        ('"a"b', "b", "space"),
        ("type:a,b", ",b", "brackets"),
        ("payload.a:1, payload.b:2", ",", "brackets"),
        ("payload.a:b[0]", "[0]", "brackets"),
        ("tim*", "tim*", "whole"),
        ("a/b:c", "a/b:c", "No field"),
        ('a "--" b', '"--"', "no word"),
        ("a\0b", "\0", "No stored event"),
    ],
)
def test_a_fault_has_its_place_and_a_sentence(text: str, place: str, part: str) -> None:
    ((offset, length, message),) = _faults(text)

    assert (offset, length) == (text.index(place), len(place))
    assert part in message


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("sevrity:error", "severity"),
        ("Type:a", "type"),
        ("pyload.a:b", "payload."),
        ("enviroment:production", "environment"),
        ("severity:warn", "warning"),
        ("severity:ERROR", "error"),
        ("type=a", "type:a"),
        ("payload.a=5", "payload.a:5"),
        ("payload.customer", "has:payload.customer"),
        ("type>a", "type:"),
    ],
)
def test_a_mistake_is_answered_with_what_may_have_been_meant(text: str, suggestion: str) -> None:
    with pytest.raises(SchemaValidationFailed) as refused:
        parse(text)

    (fault,) = refused.value.faults
    assert fault.suggestions[0] == suggestion


def test_all_fields_that_are_wrong_are_shown_at_once() -> None:
    assert [place[:2] for place in _faults("foo:1 severity:bad -(bar:2 OR tim*)")] == [
        (0, 3),
        (15, 3),
        (21, 3),
        (30, 4),
    ]


def test_a_fault_says_where_the_request_has_the_query() -> None:
    with pytest.raises(SchemaValidationFailed) as refused:
        parse("foo:1", pointer="/query")

    assert refused.value.faults[0].pointer == "/query"


def test_a_place_is_counted_in_characters() -> None:
    assert _faults("\U0001f600é foo:1")[0][:2] == (3, 3)
