"""Names of headers are compared as they were sent: X_API_Key is not X-API-Key, whatever WSGI makes of both."""

import json
from pathlib import Path

import pytest

from app.config import Settings
from app.context import Context
from tests.support.live import Answer, LiveServer, gunicorn_server
from tests.support.people import Tenant, events_of, execute, rows
from tests.support.raw_http import exchange, head
from tests.support.sending import PATH, event_for

_JSON = "Content-Type: application/json"


@pytest.fixture(name="body")
def _body(alice: Tenant) -> bytes:
    return json.dumps(event_for(alice)).encode()


def _send(server: LiveServer, body: bytes, *lines: str, path: str = PATH) -> Answer:
    return exchange(server.port, head("POST", path, _JSON, f"Content-Length: {len(body)}", *lines), body)


@pytest.mark.parametrize("path", [PATH, f"{PATH}/batch"])
@pytest.mark.parametrize("name", ["X_API_Key", "x_api-key", "X-API_Key"])
def test_a_key_under_another_name_is_no_key(live: LiveServer, alice: Tenant, body: bytes, path: str, name: str) -> None:
    assert _send(live, body, f"{name}: {alice.key}", path=path).status == 401


def test_neither_is_a_token(live: LiveServer, alice: Tenant) -> None:
    request = head("GET", "/v1/projects", "Authorization_: Bearer x", f"_Authorization: Bearer {alice.token}")

    assert exchange(live.port, request).status == 401


def test_a_header_with_an_underscore_does_not_replace_the_real_one(
    live: LiveServer, context: Context, alice: Tenant, body: bytes
) -> None:
    key = f"X-API-Key: {alice.key}"
    answer = _send(
        live,
        body,
        *("X_API_Key: lrb_sk_none", key, "X_API_Key: lrb_sk_none"),
        *("Idempotency_Key: theirs", "Content_Encoding: gzip", "Content_Length: 3", "Transfer_Encoding: chunked"),
    )

    assert answer.status == 201
    assert rows(context, "SELECT 1 FROM idempotency_records WHERE source_id = :source", source=alice.source_row) == []
    assert len(events_of(context, alice)) == 1


@pytest.mark.parametrize("forwarded", ["X-Forwarded-For: 203.0.113.7", "X-Forwarded-For: unknown", ""])
@pytest.mark.parametrize("spoofed", ["X_Forwarded_For: 198.51.100.9", "X-Forwarded_For: 198.51.100.9"])
def test_no_spelling_of_x_forwarded_for_opens_a_network(
    live: LiveServer, context: Context, alice: Tenant, body: bytes, forwarded: str, spoofed: str
) -> None:
    execute(
        context,
        "UPDATE source_keys SET allowed_networks = ARRAY['198.51.100.0/24'] WHERE id = :row",
        row=alice.key_row,
    )
    lines = [line for line in (forwarded, spoofed) if line]

    answer = _send(live, body, f"X-API-Key: {alice.key}", *lines)

    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (403, "address_not_allowed")


def test_a_proxy_that_names_no_client_does_not_lend_its_own_network(
    live: LiveServer, context: Context, alice: Tenant, body: bytes
) -> None:
    execute(
        context, "UPDATE source_keys SET allowed_networks = ARRAY['127.0.0.0/8'] WHERE id = :row", row=alice.key_row
    )
    key = f"X-API-Key: {alice.key}"

    assert _send(live, body, key, "X-Forwarded-For: unknown").status == 403
    assert _send(live, body, key).status == 201


@pytest.mark.parametrize("name", ["Idempotency-Key", "X-API-Key", "X-Forwarded-For"])
def test_a_value_that_cannot_be_read_is_not_taken_for_none(
    live: LiveServer, context: Context, alice: Tenant, body: bytes, name: str
) -> None:
    lines = [] if name == "X-API-Key" else [f"X-API-Key: {alice.key}"]
    execute(
        context, "UPDATE source_keys SET allowed_networks = ARRAY['127.0.0.0/8'] WHERE id = :row", row=alice.key_row
    )

    assert _send(live, body, *lines, f"{name}: \xe9").status in (400, 401, 403)
    assert events_of(context, alice) == []


@pytest.mark.slow
def test_gunicorn_drops_them_too(settings: Settings, checkout: Path, alice: Tenant, body: bytes) -> None:
    with gunicorn_server(settings, checkout) as server:
        assert _send(server, body, f"X_API_Key: {alice.key}").status == 401
        assert _send(server, body, "X_API_Key: lrb_sk_none", f"X-API-Key: {alice.key}").status == 201
