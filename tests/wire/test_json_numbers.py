"""json_numbers: which numbers all readers can read, and what they are kept as."""

import json
from contextlib import suppress
from decimal import Decimal, localcontext
from math import isfinite
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.wire.exact_json import WRITTEN_OUT_MAX, read_object
from app.wire.json_numbers import Kept, UnreadableNumber, characters_written_out, read_number
from tests.support.examples import examples

_any_machine = settings(max_examples=examples(1_000), deadline=None, derandomize=True)
_literals = st.from_regex(r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,22})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


@_any_machine
@given(literal=_literals)
def test_a_number_is_kept_exactly_or_refused(literal: str) -> None:
    try:
        kept = read_number(literal)
    except UnreadableNumber:
        assert abs(float(literal)) == float("inf") or len(_written_out(literal)) > 1_000
    else:
        assert Decimal(_text(kept)) == Decimal(literal)


@_any_machine
@given(literal=_literals, zeros=st.integers(0, 30), shift=st.integers(0, 20))
def test_a_number_is_the_same_in_all_notations(literal: str, zeros: int, shift: int) -> None:
    mantissa, _, power = literal.lower().partition("e")
    other = f"{mantissa}{'' if '.' in mantissa else '.'}{'0' * max(zeros, 1)}e{int(power or '0')}"
    with localcontext(prec=100):
        shifted = f"{Decimal(mantissa).scaleb(-shift):f}E{int(power or '0') + shift:+}"
    for spelling in (other, shifted):
        with suppress(UnreadableNumber):  # one of them is longer than the other
            assert _text(read_number(spelling)) == _text(read_number(literal))


@pytest.mark.parametrize(
    "literal",
    [
        "1e308",
        "1.7976931348623157e308",
        "-1.7976931348623157E+308",
        "9" * 308,
        "5e-324",
        "1e-990",
        "0." + "1" * 998,
        "-0.0e-5",
        "0." + "0" * 990,
        "1" * 300 + "." + "1" * 699,
    ],
)
def test_what_every_reader_can_read_is_taken(literal: str) -> None:
    assert Decimal(_text(read_number(literal))) == Decimal(literal)
    assert isfinite(float(json.loads(_written_out(literal))))


@pytest.mark.parametrize(
    ("literal", "why"),
    [
        ("1e309", "too large"),
        ("1.7976931348623159e308", "too large"),
        ("-1e4300", "too large"),
        ("9" * 310, "too large"),
        ("1" + "0" * 400 + "e-50", "too large"),
        ("9" * 20_000, "too large"),
        ("1e400000", "too large"),
        ("1e99999999999999999999999", "too large"),
        ("0." + "1" * 999, "1000 characters"),
        ("1e-999", "1000 characters"),
        ("-1e-400000", "1000 characters"),
        ("1e-99999999999999999999999", "1000 characters"),
    ],
)
def test_what_some_readers_cannot_read_is_refused_with_the_reason(literal: str, why: str) -> None:
    with pytest.raises(UnreadableNumber, match=why):
        read_number(literal)
    (fault,) = read_object(f'{{"a": ["{literal}", {literal}]}}'.encode()).faults
    assert fault.pointer == "/a/1"
    assert why in fault.message
    assert "as a string" in fault.message


def test_all_numbers_together_must_not_become_much_longer_than_their_text() -> None:
    def faults_of(number: str, times: int) -> list[str]:
        return [fault.pointer for fault in read_object(f'{{"a": [{",".join([number] * times)}]}}'.encode()).faults]

    assert faults_of("1e-980", WRITTEN_OUT_MAX // 982) == []
    assert faults_of("1e-980", WRITTEN_OUT_MAX // 980 + 1) == [""]
    assert faults_of('"1e-980"', WRITTEN_OUT_MAX // 980 + 1) == []
    assert characters_written_out('{"a": [1.5e3, 1.5e-3, -0.25, 17]}') == 4 + 5 + 4


def test_what_is_kept_of_numbers_stays_small() -> None:
    kept = Kept(read_number)
    for n in range(40_000):
        kept[f"{n}.5"]
        kept[f"{n}{'9' * 250}"]

    assert len(kept) <= 16_384
    assert max(map(len, kept)) <= 32


def test_a_number_that_is_known_costs_no_step_of_the_interpreter() -> None:
    read = []

    def read_once(literal: str) -> float:
        read.append(literal)
        return float(literal)

    kept = Kept(read_once)

    assert json.JSONDecoder(parse_float=kept.__getitem__).decode("[1.5, 1.5, 2.5, 1.5]") == [1.5, 1.5, 2.5, 1.5]
    assert read == ["1.5", "2.5"]


def _written_out(literal: str) -> str:
    """As PostgreSQL's numeric writes it."""
    mantissa, _, power = literal.lower().partition("e")
    sign, digits, exponent = Decimal(mantissa).as_tuple()
    exponent = int(exponent) + int(power or "0")
    text = "".join(map(str, digits)) + "0" * max(exponent, 0)
    if exponent < 0:
        text = text.rjust(1 - exponent, "0")
        text = f"{text[:exponent]}.{text[exponent:]}"
    return "-" * sign + text
