"""The fast reader: whatever it takes, the exact reader takes too, with equal values; and the common case, it takes."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ingest.common_envelope import read_common_envelope
from app.ingest.envelope import Envelope, read_envelope
from app.wire.exact_json import read_object
from tests.support.examples import examples

_COMMON = {
    "event_id": "evt_1",
    "event_type": "payment.failed",
    "source_id": "src_demo",
    "environment": "production",
    "severity": "critical",
    "timestamp": "2026-06-01T10:00:00Z",
    "payload": {"amount": 49.99, "items": [{"n": 1}, {"n": -2.50}], "note": 'say "ä" \n'},
}
_any_machine = settings(max_examples=examples(600), deadline=None, derandomize=True)

# JSON as text, with everything that a text can do and a value cannot: notation, space, members given twice.
_space = st.sampled_from(["", " ", "\n", "\t ", "\r\n", "\x0b", "\ufeff"])
_numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,22})?([eE][+-]?[0-9]{1,4})?", fullmatch=True)
_odd_numbers = st.sampled_from(["-0", "-0.0", "01", "1.", ".5", "NaN", "-Infinity", "1e400", "9" * 18, "-" + "9" * 18])
_texts = st.text(max_size=8).map(json.dumps) | st.text(max_size=8).map(lambda it: json.dumps(it, ensure_ascii=False))
_odd_texts = st.sampled_from(['"\x01"', '"\\u0000"', '"\\ud800"', '"\\x"', '"a\\"b"', "'a'"])
_leaves = st.one_of(_numbers, _odd_numbers, _texts, _odd_texts, st.sampled_from(["true", "false", "null", "tru"]))


def _object(members: list[tuple[str, str]], space: str) -> str:
    return "{" + ",".join(f"{space}{name}{space}:{space}{value}" for name, value in members) + space + "}"


_json = st.recursive(
    _leaves,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: "[" + ",".join(items) + "]")
        | st.builds(_object, st.lists(st.tuples(_texts, inner), max_size=3), _space)
    ),
    max_leaves=8,
)
# What only the exact reader takes, what none does, and what is near to that.
_moments = st.sampled_from(
    [
        "2016-12-31T23:59:60Z",
        "2016-12-31T23:59:60",
        "2026-06-01T10:00:00.12345678901Z",
        "2026-06-01T10:00:00,5-0230",
        "2026-06-01T24:00:00Z",
        "2026-02-30",
        "2026-W23-1",
        "20260601",
        "1780000000",
        "0000-01-01",
        "9999-12-31T23:59:59-01",
    ]
).map(json.dumps)
_long_numbers = [
    "9" * 308,
    "9" * 310,
    f"0.{'7' * 997}",
    f"0.{'7' * 999}",
    "1e308",
    "1e309",
    "1e-990",
    "1e-999",
    "1e4300",
]
_nests = ["[" * levels + "]" * levels for levels in (31, 32, 33, 500, 9_000)]
_beyond = st.sampled_from([*_long_numbers, *_nests])
_names = st.sampled_from([*map(json.dumps, _COMMON), '"event\\u005fid"', '"other"', '"pay\\"load"'])
_members = st.lists(
    st.tuples(_names, _json) | st.sampled_from([(json.dumps(name), json.dumps(_COMMON[name])) for name in _COMMON]),
    max_size=9,
)
_common = st.just([(json.dumps(name), json.dumps(value)) for name, value in _COMMON.items()])
_payloads = st.builds(lambda value: [("payload", value)], _json)


@st.composite
def _bodies(draw: st.DrawFn) -> bytes:
    """A good envelope with a member or two changed, or any members at all; sometimes with a byte broken."""
    members = dict(draw(_common))
    members |= dict(draw(st.lists(st.tuples(_names, _json), max_size=2)))
    if draw(st.booleans()):
        members['"payload"'] = f'{{"x":{draw(_beyond)}}}'
    if draw(st.booleans()):
        members['"timestamp"'] = draw(_moments)
    given_twice = draw(st.lists(st.sampled_from(sorted(members.items())), max_size=1))
    chosen = draw(st.just([*members.items(), *given_twice]) | _members)
    body = _object(chosen, draw(_space)).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 4)) == 0 and body:
        at = draw(st.integers(0, len(body) - 1))
        body = body[:at] + draw(st.binary(max_size=2)) + body[at + 1 :]
    return body


@_any_machine
@given(body=_bodies())
def test_what_the_fast_reader_takes_the_exact_reader_takes_with_equal_values(body: bytes) -> None:
    fast = read_common_envelope(body)

    assert fast is None or fast == _exactly(body)


@_any_machine
@given(timestamp=_moments | st.text("0123456789-+:.,TZ", max_size=25).map(json.dumps))
def test_a_time_is_taken_as_the_exact_reader_takes_it(timestamp: str) -> None:
    body = f'{{"event_type":"a","source_id":"s","payload":{{}},"timestamp":{timestamp}}}'.encode()
    fast = read_common_envelope(body)

    assert fast is None or fast == _exactly(body)


@_any_machine
@given(payload=st.builds(_object, st.lists(st.tuples(_texts, _json), max_size=4), _space))
def test_a_payload_is_taken_with_equal_text_and_equal_fingerprint(payload: str) -> None:
    body = f'{{"event_type":"a","source_id":"s", "payload" : {payload} }}'.encode("utf-8", "surrogatepass")
    fast = read_common_envelope(body)

    assert fast is None or fast == _exactly(body)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"event_id": None, "environment": None, "severity": None, "timestamp": None},
        {"payload": {}},
        {"payload": {"deep": [[[[{"n": n}]]] for n in range(40)]}},
        {"payload": {"path": "C:\\temp", "quote": '"', "unicode": "日本"}},
        {"timestamp": "20260601T100000+0200"},
    ],
)
def test_the_common_case_is_read_fast(changes: dict[str, Any]) -> None:
    event = {name: value for name, value in (_COMMON | changes).items() if value is not None}
    body = json.dumps(event, ensure_ascii=False).encode()

    assert read_common_envelope(body) == _exactly(body)


@pytest.mark.parametrize(
    "payload",
    ["[" * 32 + "]" * 32, "123456789012345678", "-123456789012345678", "1e30", '"\\u0000"', '"\\u0041"'],
)
def test_what_needs_a_closer_look_is_left_to_the_exact_reader(payload: str) -> None:
    assert read_common_envelope(f'{{"event_type":"a","source_id":"s","payload":{{"x":{payload}}}}}'.encode()) is None


@pytest.mark.parametrize("name", [*_COMMON, "event\\u005fid"])
def test_a_member_that_comes_twice_is_left_to_the_exact_reader(name: str) -> None:
    value = json.dumps(_COMMON.get(name, "evt_2"))
    body = f'{json.dumps(_COMMON, ensure_ascii=False)[:-1]}, "{name}": {value}}}'.encode()

    assert read_common_envelope(body) is None


def _exactly(body: bytes) -> Envelope:
    return read_envelope(read_object(body))
