"""Whatever text a reading route is sent as query or range, it finds something or says what is wrong: no text is our
fault.
"""

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.events.query.printing import print_query
from tests.events.query.strategies import fragments, queries
from tests.support.examples import examples
from tests.support.operating import ApiClient, api_of
from tests.support.people import Tenant
from tests.support.sending import event_for, send

_FIELDS = ["", "type:", "id:", "source:", "env:", "payload.a:", "payload.a>", "timestamp<", "has:payload."]
_ODD = st.text(st.sampled_from('\0\ud800"\\\n*é') | st.characters(), max_size=10)
# Noise, what looks like a query, an odd value for a field, and right ones, which come as far as PostgreSQL.
_TEXTS = (
    st.text(st.characters(), max_size=30)
    | st.lists(st.sampled_from([*fragments()]), max_size=12).map("".join)
    | st.builds('{}"{}"'.format, st.sampled_from(_FIELDS), _ODD)
    | queries.map(print_query)
)
_MOMENTS = ["-1m", "-400d", "-0s", "-9999999d", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"]
_BOUNDS = st.text(st.characters(), max_size=10) | st.sampled_from(_MOMENTS)
_NO_RANGE: st.SearchStrategy[dict[str, str]] = st.just({})
_RANGES = _NO_RANGE | st.fixed_dictionaries({}, optional={"from": _BOUNDS, "to": _BOUNDS})


@pytest.fixture(name="api")
def _api(app: Flask, client: FlaskClient, alice: Tenant) -> ApiClient:
    """With an event that a query can find."""
    assert send(client, alice, event_for(alice, payload={"a": ["b", 1, {"a b": True}]})).status_code == 201
    return api_of(app, alice)


_any_text = settings(
    max_examples=examples(50), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("name", ["", "/counts", "/export", "/feed"])
@_any_text
@example(q='type:"\0"', within={})
@given(q=_TEXTS, within=_RANGES)
def test_in_an_address(api: ApiClient, alice: Tenant, name: str, q: str, within: dict[str, str]) -> None:
    query = {"q": q} if name == "/feed" else {"q": q} | within
    sent = {parameter: text.encode("utf-8", "surrogatepass") for parameter, text in query.items()}

    answer = api.get(f"/v1/events{name}", project_id=alice.project_id, **sent)

    assert answer.status_code in (200, 422), answer.text


@_any_text
@example(q='type:"\0"', within={})
@given(q=_TEXTS, within=_RANGES)
def test_in_a_body(api: ApiClient, alice: Tenant, q: str, within: dict[str, str]) -> None:
    answer = api.post("/v1/events/search", {"project_id": alice.project_id, "q": q} | within)

    assert answer.status_code in (200, 422), answer.text
