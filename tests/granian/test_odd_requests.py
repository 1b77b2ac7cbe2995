"""Requests that are not quite HTTP, or not quite ours: each is refused for what is wrong with it."""

import json

import pytest

from app.context import Context
from tests.support.live import Answer, LiveServer
from tests.support.people import Tenant, events_of
from tests.support.raw_http import LAST_CHUNK, chunk, exchange, head
from tests.support.sending import PATH, event_for

_JSON = "Content-Type: application/json"


def _code(answer: Answer) -> str:
    code: str = json.loads(answer.body)["error"]["code"]
    return code


@pytest.fixture(name="body")
def _body(alice: Tenant) -> bytes:
    return json.dumps(event_for(alice)).encode()


def _event(live: LiveServer, tenant: Tenant, body: bytes, *lines: str, **changes: str | None) -> Answer:
    asked = {"method": "POST", "path": PATH, "host": "x"} | changes
    method, path, host = str(asked["method"]), str(asked["path"]), asked["host"]
    own = [f"X-API-Key: {tenant.key}", _JSON, f"Content-Length: {len(body)}"]
    return exchange(live.port, head(method, path, *own, *lines, host=host), body)


@pytest.mark.parametrize("before", [0, 1], ids=["a key that is new", "a key that is known"])
@pytest.mark.parametrize("lines", [[], ["Host: x", "Host: y"], ["Host: x", "Host: x"], ["Host: "], ["Host: a b"]])
def test_a_request_has_one_host(
    live: LiveServer, context: Context, alice: Tenant, body: bytes, lines: list[str], before: int
) -> None:
    for _ in range(before):
        assert _event(live, alice, body).status == 201

    answer = _event(live, alice, body, *lines, host=None)

    assert (answer.status, _code(answer)) == (400, "bad_request")
    assert len(events_of(context, alice)) == before


@pytest.mark.parametrize("host", ["shop.example", "shop.example:8000", "[2001:db8::1]:80", "127.0.0.1", "a_b"])
def test_any_host_that_is_one_will_do(live: LiveServer, alice: Tenant, body: bytes, host: str) -> None:
    assert _event(live, alice, body, host=host).status == 201


def test_http_1_0_needs_none(live: LiveServer) -> None:
    assert exchange(live.port, b"GET /healthz HTTP/1.0\r\n\r\n").status == 200


@pytest.mark.parametrize("method", ["post", "Post", "poST"])
def test_the_letters_of_a_method_matter(
    live: LiveServer, context: Context, alice: Tenant, body: bytes, method: str
) -> None:
    answer = _event(live, alice, body, method=method)

    assert (answer.status, _code(answer)) == (405, "method_not_allowed")
    assert "POST" in answer.headers["allow"]
    assert events_of(context, alice) == []


@pytest.mark.parametrize("path", [f"/{PATH}", "//v1//events/ingest", f"{PATH}/", f"{PATH}//batch", "/V1/events/ingest"])
def test_a_path_has_one_spelling(live: LiveServer, alice: Tenant, body: bytes, path: str) -> None:
    answer = _event(live, alice, body, path=path)

    assert (answer.status, _code(answer)) == (404, "not_found")


def test_what_is_encoded_in_a_path_is_what_it_stands_for(live: LiveServer, alice: Tenant, body: bytes) -> None:
    """Servers pass paths on decoded, so %2F looks like a slash (docs/operations.md)."""
    assert _event(live, alice, body, path="/v1%2Fevents/%69ngest").status == 201
    assert _event(live, alice, body, path="/%2Fv1/events/ingest").status == 404


@pytest.mark.parametrize("path", [PATH, f"{PATH}/batch", "/v1/projects"])
@pytest.mark.parametrize("coding", ["gzip, chunked", "gzip,chunked", "identity, chunked", "chunked, chunked"])
def test_a_transfer_coding_that_we_do_not_know_is_not_taken_for_none(
    live: LiveServer, alice: Tenant, body: bytes, path: str, coding: str
) -> None:
    credentials = [f"X-API-Key: {alice.key}", f"Authorization: Bearer {alice.token}"]
    start = head("POST", path, *credentials, _JSON, f"Transfer-Encoding: {coding}")

    answer = exchange(live.port, start, chunk(body), LAST_CHUNK)

    assert (answer.status, _code(answer)) == (501, "unsupported_transfer_coding")


@pytest.mark.parametrize("name", ["chunked", "Chunked", "CHUNKED"])
def test_chunked_is_known_in_any_letters(live: LiveServer, alice: Tenant, body: bytes, name: str) -> None:
    start = head("POST", PATH, f"X-API-Key: {alice.key}", _JSON, f"Transfer-Encoding: {name}")

    assert exchange(live.port, start, chunk(body), LAST_CHUNK).status == 201


@pytest.mark.parametrize("query", ["?verbose=1", "?source=x&x", "?atomic=true"])
def test_a_single_event_takes_no_parameter_that_it_does_not_know(
    live: LiveServer, context: Context, alice: Tenant, body: bytes, query: str
) -> None:
    assert _event(live, alice, body).status == 201

    answer = _event(live, alice, body, path=PATH + query)

    assert (answer.status, _code(answer)) == (422, "schema_validation_failed")
    assert len(events_of(context, alice)) == 1


@pytest.mark.parametrize(
    "lines",
    [
        ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAA"],
        ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"],
        ["Connection: Upgrade", "Upgrade: nothing/1"],
    ],
)
def test_an_upgrade_is_not_made_and_the_request_answered(live: LiveServer, lines: list[str]) -> None:
    """RFC 9110 §7.8: a server may ignore it."""
    answer = exchange(live.port, head("GET", "/healthz", *lines))

    assert (answer.status, json.loads(answer.body)) == (200, {"status": "ok"})
    assert "upgrade" not in answer.headers
