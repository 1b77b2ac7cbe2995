"""Bodies, queries and paths of every kind: a clear 4xx, never a 5xx, and nothing half done."""

import gzip
import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.operating import ApiClient
from tests.support.people import Tenant
from tests.support.sending import error_of, pointers_of

_JSON: dict[str, Any] = {"content_type": "application/json"}

Write = tuple[str, str]


@pytest.fixture(name="writes")
def _writes(alice: Tenant) -> list[Write]:
    """Every operation that takes a body."""
    return [
        ("POST", "/v1/projects"),
        ("PATCH", f"/v1/projects/{alice.project_id}"),
        ("POST", f"/v1/projects/{alice.project_id}/environments"),
        ("PATCH", f"/v1/environments/{alice.environment_id}"),
        ("POST", f"/v1/environments/{alice.environment_id}/sources"),
        ("PATCH", f"/v1/sources/{alice.source_id}"),
        ("POST", f"/v1/sources/{alice.source_id}/keys"),
        ("PATCH", f"/v1/keys/{alice.key_id}"),
    ]


@pytest.fixture(name="actions")
def _actions(alice: Tenant) -> list[Write]:
    """Every operation that takes none, the gentle ones first."""
    return [
        ("POST", f"/v1/sources/{alice.source_id}/enable"),
        ("POST", f"/v1/sources/{alice.source_id}/disable"),
        ("POST", f"/v1/keys/{alice.key_id}/revoke"),
        ("DELETE", f"/v1/sources/{alice.source_id}"),
        ("DELETE", f"/v1/environments/{alice.environment_id}"),
        ("DELETE", f"/v1/projects/{alice.project_id}"),
    ]


_UNREADABLE: dict[str, bytes] = {
    "half": b'{"name": "x"',
    "more": b'{"name": "x"} {}',
    "an array": b"[]",
    "a text": b'"name"',
    "null": b"null",
    "NaN": b'{"name": NaN}',
    "Infinity": b'{"name": -Infinity}',
    "Latin-1": '{"name": "é"}'.encode("latin-1"),
    "a byte order mark": b'\xef\xbb\xbf{"name": "x"}',
    "100,000 brackets": b"[" * 100_000,
}


@pytest.mark.parametrize("kind", _UNREADABLE)
def test_what_cannot_be_read_as_an_object_is_a_400(api: ApiClient, writes: list[Write], kind: str) -> None:
    for method, path in writes:
        refused = api.call(method, path, data=_UNREADABLE[kind], **_JSON)
        assert (refused.status_code, error_of(refused)["code"]) == (400, "bad_request"), path


_WRONG: dict[str, bytes] = {
    "a member twice": b'{"name": "x", "name": "y", "label": "x", "label": "y"}',
    "U+0000": b'{"name": "\\u0000", "label": "\\u0000"}',
    "half a surrogate pair": b'{"name": "\\ud800", "label": "\\ud800"}',
    "half a surrogate pair as a name": b'{"\\ud800": 1}',
    "a number of 5,000 digits": b'{"name": ' + b"9" * 5_000 + b', "label": 1}',
    "a number beyond all numbers": b'{"name": 1e400000, "label": 1e400000}',
    "100,000 nested arrays": b'{"name": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 nested objects": b'{"a":' * 100_000,
    "33 levels": b'{"name": ' + b"[" * 33 + b"]" * 33 + b', "label": []}',
    "32 levels": b'{"name": ' + b"[" * 32 + b"]" * 32 + b', "label": []}',
    "an unknown member": b'{"nmae": "x"}',
    "members called json and query": b'{"json": 1, "query": 1}',
}


@pytest.mark.parametrize("kind", _WRONG)
def test_what_can_be_read_but_is_wrong_is_a_422_with_its_place(api: ApiClient, writes: list[Write], kind: str) -> None:
    for method, path in writes:
        refused = api.call(method, path, data=_WRONG[kind], **_JSON)
        assert refused.status_code == 422, path
        assert pointers_of(refused)


@pytest.mark.parametrize("levels", [33, 490, 1_000, 7_000, 9_990])
def test_what_nests_too_deep_is_a_422_that_says_where(api: ApiClient, levels: int) -> None:
    body = b'{"name": "x", "description": ' + b"[" * levels + b"]" * levels + b"}"

    refused = api.call("POST", "/v1/projects", data=body, **_JSON, headers={"Idempotency-Key": "deep"})

    assert refused.status_code == 422
    assert pointers_of(refused) == {"/description" + "/0" * 32}


def test_a_member_named_like_a_location_is_not_taken_for_it(api: ApiClient) -> None:
    refused = api.post("/v1/projects", {"name": "x", "json": 1, "query": 1, "a/b~c": 1})

    assert pointers_of(refused) == {"/json", "/query", "/a~1b~0c"}


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/xml", "application/json; charset=latin-1"])
def test_a_body_that_is_not_announced_as_json_is_a_415(
    api: ApiClient, writes: list[Write], actions: list[Write], content_type: str | None
) -> None:
    for method, path in writes + actions:
        refused = api.call(method, path, data=b'{"name": "x"}', content_type=content_type)
        assert (refused.status_code, error_of(refused)["code"]) == (415, "unsupported_media_type"), path


def test_a_compressed_body_is_read_as_ingest_reads_it(api: ApiClient) -> None:
    headers = {"Content-Encoding": "gzip"}
    body = gzip.compress(b'{"name": "x"}')

    assert api.call("POST", "/v1/projects", data=body, headers=headers, **_JSON).status_code == 201
    assert api.call("POST", "/v1/projects", data=body[:-1], headers=headers, **_JSON).status_code == 400
    bomb = gzip.compress(b" " * 600_000)
    assert api.call("POST", "/v1/projects", data=bomb, headers=headers, **_JSON).status_code == 413


def test_a_body_in_an_encoding_that_is_not_taken_is_a_415(api: ApiClient) -> None:
    refused = api.call("POST", "/v1/projects", {"name": "x"}, headers={"Content-Encoding": "compress"})

    assert refused.status_code == 415
    assert refused.headers["Accept-Encoding"] == "gzip, deflate, zstd, br"


def test_a_body_beyond_measure_is_a_413(api: ApiClient, writes: list[Write], actions: list[Write]) -> None:
    for method, path in writes + actions:
        refused = api.call(method, path, data=b'{"name": "' + b"x" * 600_000 + b'"}', **_JSON)
        assert (refused.status_code, error_of(refused)["code"]) == (413, "payload_too_large"), path


def test_no_body_is_a_body_without_members(api: ApiClient) -> None:
    response = api.post("/v1/projects")

    assert (response.status_code, pointers_of(response)) == (422, {"/name"})


def test_an_action_takes_nothing_or_an_empty_object(api: ApiClient, alice: Tenant) -> None:
    path = f"/v1/sources/{alice.source_id}/enable"

    assert api.post(path).status_code == 200
    assert api.post(path, data=b"", content_type="application/x-www-form-urlencoded").status_code == 200
    assert api.post(path, {}).status_code == 200


def test_an_action_refuses_what_it_would_ignore(api: ApiClient, actions: list[Write]) -> None:
    for method, path in actions:
        refused = api.call(method, path, {"reason": "leaked"})
        assert refused.status_code == 422, path
        assert pointers_of(refused) == {"/reason"}


def test_a_parameter_that_means_nothing_is_refused_everywhere(
    api: ApiClient, writes: list[Write], actions: list[Write]
) -> None:
    reads = [("GET", path) for _, path in writes]
    for method, path in reads + writes + actions:
        refused = api.call(method, path, query_string={"dry_run": "1", "a/b": "2"})
        assert refused.status_code == 422, path
        assert pointers_of(refused) == {"/dry_run", "/a~1b"}


def test_an_error_speaks_rfc_9457_if_it_is_asked_for(api: ApiClient) -> None:
    refused = api.call("POST", "/v1/projects", {}, headers={"Accept": "application/problem+json"})

    assert refused.mimetype == "application/problem+json"
    assert refused.json is not None
    assert refused.json["details"] == [{"pointer": "/name", "message": "Missing data for required field."}]


_members = st.sampled_from(["name", "description", "type", "label", "expires_at", "status", "id", ""]) | st.text()
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_members, inner, max_size=3),
    max_leaves=8,
)
_bodies = st.one_of(
    st.dictionaries(_members, _values, max_size=5).map(lambda body: json.dumps(body).encode()),
    _values.map(lambda body: json.dumps(body).encode()),
    st.binary(max_size=50),
)
_few = settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_few
@given(body=_bodies)
def test_no_body_whatever_it_holds_is_answered_with_a_5xx(api: ApiClient, writes: list[Write], body: bytes) -> None:
    for method, path in writes:
        response = api.call(method, path, data=body, **_JSON)
        assert response.status_code in (200, 201, 400, 409, 422), (path, body)


@_few
@given(name=st.text(min_size=1) | st.binary(min_size=1))
def test_no_id_in_a_path_whatever_it_holds_finds_anything(api: ApiClient, name: str | bytes) -> None:
    text = quote(name, safe="", errors="surrogatepass") if isinstance(name, str) else quote(name, safe="")

    assert api.get(f"/v1/projects/{text}").status_code == 404
    assert api.post(f"/v1/keys/{text}/revoke").status_code == 404


@_few
@given(query=st.dictionaries(st.sampled_from(["limit", "cursor", "type", "project_id"]) | st.text(), st.text()))
def test_no_query_whatever_it_holds_is_answered_with_a_5xx(api: ApiClient, query: dict[str, Any]) -> None:
    encodable = {
        name.encode(errors="replace").decode(): value.encode(errors="replace").decode() for name, value in query.items()
    }

    assert api.get("/v1/sources", **encodable).status_code in (200, 422)


def test_a_refused_change_changes_nothing(api: ApiClient, alice: Tenant) -> None:
    before = api.get(f"/v1/sources/{alice.source_id}").json

    refused = api.patch(f"/v1/sources/{alice.source_id}", {"description": "new", "type": "toaster"})

    assert refused.status_code == 422
    assert api.get(f"/v1/sources/{alice.source_id}").json == before
