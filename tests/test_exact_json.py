"""exact_json: what the contract's tests do not reach."""

import pytest

from app.exact_json import Number, fingerprint, read_object


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


def test_a_number_knows_what_it_takes_written_out() -> None:
    values = read_object(b'{"a": 1.5e3, "b": 1.5e-3, "c": 12345678901234567890, "d": 0.001}').values

    sizes = {name: (n.digits_before, n.digits_after) for name, n in values.items() if isinstance(n, Number)}
    assert sizes == {"a": (4, 0), "b": (1, 4), "c": (20, 0), "d": (1, 3)}


def test_reading_takes_time_in_proportion_to_the_text() -> None:
    """No clock here: half a megabyte of almost-long digit runs took minutes when each digit began its own search."""
    runs = "x".join(["9" * 9_998] * 50)

    assert read_object(f'{{"n": "{runs}", "m": {"9" * 9_998}}}'.encode()).faults == ()


def test_a_body_of_many_faults_names_a_hundred_of_them() -> None:
    body = b'{"a": [' + b",".join([b"1e99999"] * 50_000) + b"]}"

    assert len(read_object(body).faults) == 100
