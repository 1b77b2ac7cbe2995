"""exact_json: what the contract's tests do not reach."""

import pytest

from app.idempotency.fingerprint import fingerprint
from app.wire.exact_json import read_object


@pytest.mark.parametrize(
    "spellings",
    [
        ["1", "1.0", "1e0", "10e-1", "0.1E1", "1.000"],
        ["0", "-0", "0.0", "-0e5", "0E-9"],
        ["100", "1e2", "1E+2", "100.00"],
        ["-123456789012345678", "-123456789012345678.0", "-1.23456789012345678e17"],
        ["1234567890123456789012", "1234567890123456789012.0", "0.1234567890123456789012e22"],
        ["0.1", "1e-1", "0.10"],
    ],
)
def test_one_number_has_one_fingerprint_however_it_is_written(spellings: list[str]) -> None:
    prints = {fingerprint(read_object(f'{{"n": {spelling}}}'.encode()).values) for spelling in spellings}

    assert len(prints) == 1


def test_different_values_have_different_fingerprints() -> None:
    texts = [
        '{"n":1}',
        '{"n":"1"}',
        '{"n":true}',
        '{"n":null}',
        '{"n":[1]}',
        '{"n":{"1":1}}',
        '{"n":1.5}',
        '{"m":1}',
        '{"n":15E-2}',
        '{"n":15E2}',
        '{"n":-1}',
        '{"n":""}',
        '{"n":[]}',
        '{"n":{}}',
        '{"n":[[]]}',
    ]

    assert len({fingerprint(read_object(text.encode()).values) for text in texts}) == len(texts)


def test_the_order_of_members_does_not_matter_and_that_of_elements_does() -> None:
    def print_of(text: str) -> bytes:
        return fingerprint(read_object(text.encode()).values)

    assert print_of('{"a": 1, "b": {"c": 2, "d": 3}}') == print_of('{"b": {"d": 3, "c": 2}, "a": 1}')
    assert print_of('{"a": [1, 2]}') != print_of('{"a": [2, 1]}')


def test_each_member_keeps_its_own_text() -> None:
    document = read_object(b' { "a" : { "x":1.50 }\n, "b":[ ] , "c" : "\\u00e9" } ')

    assert document.texts == {"a": '{ "x":1.50 }', "b": "[ ]", "c": '"\\u00e9"'}


def test_reading_takes_time_in_proportion_to_the_text() -> None:
    """No clock here: half a megabyte of almost-long digit runs took minutes when each digit began its own search."""
    runs = "x".join(["9" * 9_998] * 50)

    assert read_object(f'{{"n": "{runs}", "m": {"9" * 308}}}'.encode()).faults == ()


def test_a_body_of_many_faults_names_a_hundred_of_them() -> None:
    for fault in (b"1e99999", rb'"\u0000"', rb'"\ud800"', rb'{"\udc00": 1}'):
        assert len(read_object(b'{"a": [' + b",".join([fault] * 50_000) + b"]}").faults) == 100


@pytest.mark.parametrize("text", [r"\\u0000", r"\ud83d\ude00", r"\\ud800", r"\\\\ud800", r"\uD83D\uDE00\uD83D\uDE00"])
def test_an_escape_that_stands_for_something_else_is_no_fault(text: str) -> None:
    assert read_object(f'{{"a": ["{text}"]}}'.encode()).faults == ()


@pytest.mark.parametrize(
    "text", [r"\\\u0000", r"\ud83d\ud83d\ude00", r"\ud83d\ude00\ude00", r"\ud83d\\ude00", r"\uDBFF", r"\udbffx\uDC00"]
)
def test_an_escape_of_what_cannot_be_stored_is_a_fault_wherever_it_stands(text: str) -> None:
    assert [fault.pointer for fault in read_object(f'{{"a": ["x", "{text}"]}}'.encode()).faults] == ["/a/1"]
    assert [fault.pointer for fault in read_object(f'{{"a": {{"{text}": 1}}}}'.encode()).faults] == ["/a"]


@pytest.mark.parametrize("value", ["1e400000", r'"\u0000"', r'"\ud800"'])
def test_what_a_later_member_of_the_same_name_hides_is_a_fault_all_the_same(value: str) -> None:
    """PostgreSQL reads both."""
    (fault,) = read_object(f'{{"a": {{"b": {value}, "b": 1}}}}'.encode()).faults

    assert "given twice" in fault.message
