"""json_scan: what a parser would say of the depth, without one."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import SchemaValidationFailed
from app.wire.exact_json import read_object
from app.wire.json_scan import cut_deeper, flatten_deeper, nests_deeper
from tests.support.examples import examples

_any_machine = settings(max_examples=examples(500), deadline=None, derandomize=True)
_texts = st.text(st.sampled_from('a"\\[]{}é\n,:'), max_size=6)
_values = st.recursive(
    st.none() | st.integers() | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=20,
)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


@_any_machine
@given(value=_values, levels=st.integers(0, 6), is_ascii=st.booleans())
def test_the_depth_is_the_one_that_a_parser_finds(value: Any, levels: int, *, is_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii).encode()

    assert nests_deeper(text, levels) == (_depth(value) > levels)


@_any_machine
@given(value=_values, levels=st.integers(1, 6))
def test_what_is_cut_is_json_and_no_deeper_than_it_may_be(value: Any, levels: int) -> None:
    text = json.dumps(value, ensure_ascii=False).encode()
    if nests_deeper(text, levels):
        assert _depth(json.loads(cut_deeper(text, levels))) == levels


@_any_machine
@given(events=st.lists(_values, max_size=5), levels=st.integers(3, 6))
def test_of_a_list_exactly_the_deep_elements_are_flattened_and_all_else_stands_where_it_stood(
    events: list[Any], levels: int
) -> None:
    text = json.dumps({"events": events}, ensure_ascii=False, indent=1)

    flat = flatten_deeper(text, levels, 3)

    assert [n for n, c in enumerate(flat) if c == "\n"] == [n for n, c in enumerate(text) if c == "\n"]
    assert len(flat) == len(text)
    assert json.loads(flat) == {"events": [0 if _depth(event) + 2 > levels else event for event in events]}


@pytest.mark.parametrize("space", ["", " ", "\n"])
def test_an_element_that_never_ends_is_flattened_to_the_end(space: str) -> None:
    flat = flatten_deeper(f'{{"events": [1, {space}' + "[" * 50, 35, 3)

    assert flat.rstrip() == f'{{"events": [1, {space}0'


def test_what_is_wrong_before_it_is_deep_is_reported_with_its_position() -> None:
    for text, position in [('{"a": nul, "b": ', 6), ('{"a": 1', 7), ('{"a": [}, "b": ', 7), ('{"a" ', 5)]:
        with pytest.raises(ValueError, match=f"char {position}"):
            json.loads(cut_deeper(f"{text}{'[' * 50}".encode(), 33))


@pytest.mark.parametrize("nest", ["[" * 10_000, "[" * 10_000 + "]" * 10_000, '{"a":' * 10_000])
def test_no_parser_is_asked_about_what_is_deep(nest: str) -> None:
    """With the parser that Python 3.13 has, each of these ended the process."""
    with pytest.raises(SchemaValidationFailed):
        read_object(f'{{"v": {nest}'.encode())
