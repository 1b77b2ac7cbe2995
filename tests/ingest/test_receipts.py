"""What a producer can ask with its source key: whether its own event is stored, and with which receipt."""

import json
from dataclasses import replace

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.support.operating import api_of
from tests.support.people import Tenant
from tests.support.sending import PATH, error_of, event_for, pointers_of, send


def _ask(client: FlaskClient, tenant: Tenant, path: str = "", **query: str) -> TestResponse:
    headers = {"X-API-Key": tenant.key, "X-Request-ID": "the-same-for-all"}
    return client.get(f"{PATH}{path}", query_string=query, headers=headers)


def _stored_at(app: Flask, tenant: Tenant, event_id: str) -> str:
    """When an event was received, as who reads it is shown."""
    stored = api_of(app, tenant).get(f"/v1/sources/{tenant.source_id}/events/{event_id}")
    assert stored.json is not None
    return str(stored.json["received_at"])


@pytest.fixture(name="sibling")
def _sibling(app: Flask, alice: Tenant) -> Tenant:
    """Alice's workspace again, with another source of the same environment, and its key."""
    api = api_of(app, alice)
    source = api.made(f"/v1/environments/{alice.environment_id}/sources", {"name": "other", "type": "backend"})
    key = api.made(f"/v1/sources/{source['id']}/keys", {})
    return replace(alice, source_id=source["id"], key=key["key"])


class TestByEventId:
    @pytest.mark.parametrize("event_id", ["evt_1", "a/b", "é", "?x=1", "a%2Fb"])
    def test_says_when_it_was_stored_and_what_was_answered(
        self, client: FlaskClient, alice: Tenant, event_id: str
    ) -> None:
        sent = send(client, alice, event_for(alice, event_id=event_id))

        encoded = "".join(f"%{byte:02X}" for byte in event_id.encode())
        answer = _ask(client, alice, f"/{encoded}")
        assert answer.status_code == 200, answer.json
        assert answer.json is not None
        assert answer.json["receipt"] == sent.json
        assert set(answer.json) == {"stored", "received_at", "receipt"}
        assert answer.headers["Cache-Control"] == "no-store"
        assert "RateLimit" in answer.headers

    @pytest.mark.parametrize("event_id", ["other", "%00", "%ff", "a" * 300])
    def test_is_not_found_for_another_one(self, client: FlaskClient, alice: Tenant, event_id: str) -> None:
        assert error_of(_ask(client, alice, f"/{event_id}"))["code"] == "not_found"

    def test_says_when_the_event_was_received(self, app: Flask, client: FlaskClient, alice: Tenant) -> None:
        """Also after it was sent again, when it was received at first."""
        for status in (201, 200):
            assert send(client, alice, event_for(alice, event_id="e")).status_code == status

        answer = _ask(client, alice, "/e").json or {}
        assert (answer["stored"], answer["received_at"]) == (True, _stored_at(app, alice, "e"))

    def test_says_the_same_of_an_event_of_another_source_as_of_none(
        self, client: FlaskClient, alice: Tenant, sibling: Tenant, charlie: Tenant
    ) -> None:
        for other in (sibling, charlie):
            assert send(client, other, event_for(other, event_id="theirs")).status_code == 201

        none = _ask(client, alice, "/nobody")
        assert none.status_code == 404
        assert _ask(client, alice, "/theirs").data == none.data


class TestByIdempotencyKey:
    def test_is_the_receipt_of_the_first_request(self, client: FlaskClient, alice: Tenant) -> None:
        sent = send(client, alice, idempotency_key='"k,1"')
        assert send(client, alice, idempotency_key='"k,1"').json == sent.json

        answer = _ask(client, alice, idempotency_key="k,1")
        assert answer.status_code == 200, answer.json
        assert answer.json is not None
        assert answer.json["receipt"] == sent.json

    def test_says_when_the_event_was_received(self, app: Flask, client: FlaskClient, alice: Tenant) -> None:
        """Also after the request was repeated, when it was received at first."""
        for _ in range(2):
            assert send(client, alice, event_for(alice, event_id="e"), idempotency_key="k").status_code == 201

        answer = _ask(client, alice, idempotency_key="k").json or {}
        assert (answer["stored"], answer["received_at"]) == (True, _stored_at(app, alice, "e"))

    def test_says_the_same_of_a_key_of_another_source_as_of_none(
        self, client: FlaskClient, alice: Tenant, sibling: Tenant, charlie: Tenant
    ) -> None:
        for other in (sibling, charlie):
            assert send(client, other, event_for(other), idempotency_key="theirs").status_code == 201

        none = _ask(client, alice, idempotency_key="nobody")
        assert none.status_code == 404
        assert _ask(client, alice, idempotency_key="theirs").data == none.data

    def test_is_the_whole_answer_to_a_batch(self, client: FlaskClient, alice: Tenant) -> None:
        body = json.dumps({"events": [event_for(alice), {}]})
        headers = {"X-API-Key": alice.key, "Idempotency-Key": "b", "Content-Type": "application/json"}
        sent = client.post(f"{PATH}/batch", data=body, headers=headers)
        assert sent.status_code == 200

        answer = _ask(client, alice, idempotency_key="b")
        assert answer.json is not None
        assert answer.json["receipt"] == sent.json

    def test_is_not_found_after_a_refusal(self, client: FlaskClient, alice: Tenant) -> None:
        assert send(client, alice, {"event_type": "a"}, idempotency_key="r").status_code == 422

        assert _ask(client, alice, idempotency_key="r").status_code == 404

    @pytest.mark.parametrize("key", ["", "é", "a b", "a" * 256, "\x00"])
    def test_is_refused_for_what_can_be_no_key(self, client: FlaskClient, alice: Tenant, key: str) -> None:
        assert pointers_of(_ask(client, alice, idempotency_key=key)) == {"/idempotency_key"}

    def test_is_refused_beside_an_unknown_parameter(self, client: FlaskClient, alice: Tenant) -> None:
        assert pointers_of(_ask(client, alice, idempotency_key="a", q="b")) == {"/q"}


class TestWhoMayAsk:
    @pytest.mark.parametrize("path", ["/evt_1", "?idempotency_key=k"])
    def test_no_one_without_a_source_key(self, client: FlaskClient, alice: Tenant, path: str) -> None:
        for headers in ({}, alice.bearer, {"X-API-Key": alice.token}, {"X-API-Key": "lrb_sk_forged"}):
            assert client.get(f"{PATH}{path}", headers=headers).status_code == 401

    def test_no_one_with_a_revoked_key(self, app: Flask, client: FlaskClient, alice: Tenant) -> None:
        assert send(client, alice, event_for(alice, event_id="e")).status_code == 201
        assert api_of(app, alice).post(f"/v1/keys/{alice.key_id}/revoke").status_code == 200

        assert error_of(_ask(client, alice, "/e"))["code"] == "invalid_source_key"

    def test_no_one_from_a_network_that_the_key_is_not_for(
        self, app: Flask, client: FlaskClient, alice: Tenant
    ) -> None:
        assert send(client, alice, event_for(alice, event_id="e")).status_code == 201
        changed = api_of(app, alice).patch(f"/v1/keys/{alice.key_id}", {"allowed_networks": ["203.0.113.0/24"]})
        assert changed.status_code == 200

        assert error_of(_ask(client, alice, "/e"))["code"] == "address_not_allowed"
