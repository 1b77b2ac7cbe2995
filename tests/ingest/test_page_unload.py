"""What a page sends while it is left: no preflight can come before it, so the key is in the query and JSON is text."""

import json
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.context import Context
from app.ingest.services import EXTENSION as INGEST
from tests.ingest.test_batch import BATCH_PATH
from tests.ingest.test_policies import limit
from tests.support.live import LiveServer
from tests.support.people import Tenant, events_of, execute, rows
from tests.support.sending import PATH, error_of, event_for, pointers_of, send

_SHOP = "https://shop.example"
# As navigator.sendBeacon(url, text) sends it.
_BEACON = {"Origin": _SHOP, "Content-Type": "text/plain;charset=UTF-8"}


@pytest.fixture(name="shop", autouse=True)
def _shop(context: Context, alice: Tenant) -> None:
    """Alice's key is a browser key of a shop."""
    limit(context, alice, allowed_event_types=["payment.*"], allowed_origins=[_SHOP])


def _leave(
    client: FlaskClient, key: str, body: Any, query: str = "", path: str = PATH, **headers: str | None
) -> TestResponse:
    """Send `body` as a page does that is being left; a header of None is left out."""
    sent = {name: value for name, value in (_BEACON | headers).items() if value is not None}
    return client.post(f"{path}?key={key}{query}", data=json.dumps(body), headers=sent)


def test_a_beacon_is_stored_once(client: FlaskClient, context: Context, alice: Tenant) -> None:
    event = event_for(alice, event_id="left")

    answers = [_leave(client, alice.key, event) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [201, 200]
    assert [each.event_id for each in events_of(context, alice)] == ["left"]
    assert {answer.headers["Access-Control-Allow-Origin"] for answer in answers} == {_SHOP}
    assert {answer.headers["Referrer-Policy"] for answer in answers} == {"no-referrer"}


def test_so_is_a_batch_of_them(client: FlaskClient, context: Context, alice: Tenant) -> None:
    batch = {"events": [event_for(alice) for _ in range(3)]}

    answer = _leave(client, alice.key, batch, "&atomic=true", BATCH_PATH)

    assert answer.status_code == 200
    assert len(events_of(context, alice)) == 3


@pytest.mark.parametrize("media_type", ["application/json", "text/plain"])
def test_a_page_that_may_ask_before_can_call_it_json(client: FlaskClient, alice: Tenant, media_type: str) -> None:
    assert _leave(client, alice.key, event_for(alice), **{"Content-Type": media_type}).status_code == 201


@pytest.mark.parametrize("path", [PATH, BATCH_PATH])
@pytest.mark.parametrize("origin", [_SHOP, "https://evil.example", "null", None])
def test_the_key_of_a_server_is_refused_in_the_query_wherever_it_comes_from(
    client: FlaskClient, context: Context, charlie: Tenant, path: str, origin: str | None
) -> None:
    answer = _leave(client, charlie.key, event_for(charlie), "", path, Origin=origin)

    assert (answer.status_code, error_of(answer)["code"]) == (403, "origin_not_allowed")
    assert "rotate it" in error_of(answer)["message"]
    assert events_of(context, charlie) == []


@pytest.mark.parametrize(
    "origin", ["https://evil.example", f"{_SHOP}.evil.example", "http://shop.example", "null", None]
)
def test_a_browser_key_is_refused_from_pages_that_it_is_not_for(
    client: FlaskClient, context: Context, alice: Tenant, origin: str | None
) -> None:
    answer = _leave(client, alice.key, event_for(alice), Origin=origin)

    assert (answer.status_code, error_of(answer)["code"]) == (403, "origin_not_allowed")
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert events_of(context, alice) == []


def test_a_page_that_was_just_taken_from_the_key_stores_nothing_more(
    client: FlaskClient, context: Context, alice: Tenant
) -> None:
    assert _leave(client, alice.key, event_for(alice)).status_code == 201
    limit(context, alice, allowed_origins=["https://other.example"])

    assert _leave(client, alice.key, event_for(alice)).status_code == 403


@pytest.mark.parametrize("origin", [_SHOP, "https://evil.example"])
def test_a_key_that_is_wrong_or_revoked_is_refused_as_ever(
    client: FlaskClient, context: Context, alice: Tenant, origin: str
) -> None:
    execute(context, "UPDATE source_keys SET revoked_at = now() WHERE id = :id", id=alice.key_row)
    for key in (alice.key, f"{alice.key}x", "", alice.token):
        answer = _leave(client, key, event_for(alice), Origin=origin)

        assert (answer.status_code, error_of(answer)["code"]) == (401, "invalid_source_key")


def test_a_key_that_is_refused_in_the_query_is_counted(
    app: Flask, client: FlaskClient, context: Context, charlie: Tenant
) -> None:
    answer = _leave(client, charlie.key, event_for(charlie))
    app.extensions[INGEST].refusals.flush()

    assert answer.status_code == 403
    (row,) = rows(context, "SELECT outcome, events FROM usage_outbox WHERE source_key_id = :id", id=charlie.key_row)
    assert (row.outcome, row.events) == ("origin_not_allowed", 1)


def test_text_is_taken_for_json_with_a_key_in_the_query_only(client: FlaskClient, alice: Tenant) -> None:
    answer = send(client, alice, content_type="text/plain", headers={"Origin": _SHOP})

    assert answer.status_code == 415


def test_of_two_keys_none_is_taken(client: FlaskClient, context: Context, alice: Tenant, charlie: Tenant) -> None:
    twice = _leave(client, alice.key, event_for(alice), f"&key={charlie.key}")
    both = _leave(client, charlie.key, event_for(alice), **{"X-API-Key": alice.key})

    assert [answer.status_code for answer in (twice, both)] == [422, 422]
    assert pointers_of(twice) == pointers_of(both) == {"/key"}
    assert events_of(context, alice) == events_of(context, charlie) == []


@pytest.mark.parametrize("path", [PATH, BATCH_PATH])
def test_a_parameter_that_is_not_known_is_refused_by_name(client: FlaskClient, alice: Tenant, path: str) -> None:
    answer = _leave(client, alice.key, {"events": [event_for(alice)]}, "&kye=1", path)

    assert answer.status_code == 422
    assert pointers_of(answer) == {"/kye"}


def test_the_fast_path_passes_over_no_query_either(client: FlaskClient, alice: Tenant, charlie: Tenant) -> None:
    assert send(client, charlie).status_code == 201

    answer = client.post(f"{PATH}?dry_run=true", json=event_for(charlie), headers={"X-API-Key": charlie.key})

    assert answer.status_code == 422
    assert pointers_of(answer) == {"/dry_run"}


def test_it_works_in_the_real_server(live: LiveServer, context: Context, alice: Tenant) -> None:
    answer = live.request("POST", f"{PATH}?key={alice.key}", json.dumps(event_for(alice)).encode(), dict(_BEACON))

    assert answer.status == 201
    assert len(events_of(context, alice)) == 1
