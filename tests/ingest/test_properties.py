"""POST /v1/events/ingest: promises for any input, not for chosen ones."""

import json
from decimal import Decimal
from typing import Any

from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.context import Context
from tests.support.examples import examples
from tests.support.people import Tenant, rows
from tests.support.sending import error_of, send

# The database and the tenant are shared by all examples on purpose; no example has a deadline of its own.
_any_machine = settings(
    max_examples=examples(150),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)

_characters = st.characters(codec="utf-8", exclude_characters="\0")
_numbers = st.one_of(
    st.integers(-(10**40), 10**40),
    st.decimals(allow_nan=False, allow_infinity=False, places=12),
    # With 308 digits before the point at the most: beyond that tests/wire/test_json_numbers.py takes over.
    st.floats(-1e308, 1e308).map(Decimal).filter(lambda number: len(f"{number:f}") <= 1_000),
    st.builds(lambda digits, power: Decimal(f"{digits}E{power}"), st.integers(-99, 99), st.integers(-400, 306)),
)
_values = st.recursive(
    st.none() | st.booleans() | _numbers | st.text(_characters),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(_characters), inner, max_size=5),
    max_leaves=30,
)


def _write(value: Any) -> str:
    if isinstance(value, Decimal | int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{_write(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_write, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


@_any_machine
@given(payload=st.dictionaries(st.text(_characters), _values, max_size=6))
def test_any_json_object_comes_back_equal_numbers_exactly(
    client: FlaskClient, context: Context, alice: Tenant, payload: dict[str, Any]
) -> None:
    body = f'{{"event_type": "a", "source_id": "{alice.source_id}", "payload": {_write(payload)}}}'

    response = send(client, alice, body)

    assert response.status_code == 201, response.data
    assert response.json is not None
    (stored,) = rows(
        context,
        "SELECT payload::text AS text FROM events WHERE project_id = :project AND event_id = :id",
        project=alice.project_row,
        id=response.json["event_id"],
    )
    assert json.loads(stored.text, parse_int=Decimal, parse_float=Decimal) == payload


@_any_machine
@given(payload=_values, other=_values)
def test_content_is_the_same_exactly_when_its_json_values_are_equal(
    client: FlaskClient, alice: Tenant, payload: Any, other: Any
) -> None:
    def body(value: Any) -> str:
        return f'{{"event_type": "a", "source_id": "{alice.source_id}", "payload": {{"x": {_write(value)}}}}}'

    key = f"k{hash(_write(payload))}-{hash(_write(other))}"
    first = send(client, alice, body(payload), idempotency_key=key)
    again = send(client, alice, body(other), idempotency_key=key)

    assert first.status_code == 201
    assert (again.status_code == 201) == _same(payload, other)


@_any_machine
@given(body=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_a_4xx(client: FlaskClient, alice: Tenant, body: bytes) -> None:
    response = send(client, alice, body)

    assert 400 <= response.status_code < 500
    assert error_of(response)["retryable"] is False


@_any_machine
@given(
    members=st.dictionaries(
        st.sampled_from(
            [
                "event_id",
                "event_type",
                "source_id",
                "environment",
                "severity",
                "timestamp",
                "payload",
                "other",
            ]
        ),
        _values | st.text() | st.sampled_from(["a", "info", "2026-06-01T10:00:00Z", "production"]),
    )
)
def test_any_envelope_is_taken_or_refused_with_a_pointer(
    client: FlaskClient, alice: Tenant, members: dict[str, Any]
) -> None:
    response = send(client, alice, _write(members))

    assert response.status_code in (200, 201, 403, 409, 422), response.data
    if response.status_code == 422:
        assert all(detail["pointer"].startswith("/") for detail in error_of(response)["details"])


@_any_machine
@given(header=st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=300))
def test_any_idempotency_key_is_taken_or_refused(client: FlaskClient, alice: Tenant, header: str) -> None:
    assert send(client, alice, idempotency_key=header).status_code in (201, 400)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, str) == isinstance(other, str) and bool(one == other)
