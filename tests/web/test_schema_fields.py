"""One function reads the times of ingest and of the management API, in bodies and in queries."""

import json

import pytest
from flask.testing import FlaskClient

from tests.support.operating import ApiClient
from tests.support.people import Tenant
from tests.support.sending import error_of, event_for, send


def _answers(client: FlaskClient, tenant: Tenant, text: object) -> dict[str, tuple[int, str]]:
    """Status and first fault of everything that takes a time."""
    api = ApiClient(client, tenant.token)
    responses = {
        "an event": send(client, tenant, event_for(tenant, timestamp=text)),
        "an expiry": api.post(f"/v1/sources/{tenant.source_id}/keys", {"expires_at": text}),
        "a token's expiry": api.post("/v1/tokens", {"label": "t", "role": "auditor", "expires_at": text}),
        "the audit log": api.call("GET", "/v1/audit", query_string={"from": text}),
        "usage": api.call("GET", "/v1/usage", query_string={"to": text, "interval": "day"}),
    }
    return {
        name: (response.status_code, error_of(response)["details"][0]["message"] if response.status_code >= 400 else "")
        for name, response in responses.items()
    }


@pytest.mark.parametrize(
    "text",
    [
        "2099-01-31T12:00:00.12345678901+02:00",
        "2098-12-31T23:59:60Z",
        "20990131t120000z",
    ],
)
def test_what_one_takes_all_take(client: FlaskClient, alice: Tenant, text: str) -> None:
    assert {status for status, _ in _answers(client, alice, text).values()} <= {200, 201}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2099-02-30T12:00:00Z", "no day 30 in February 2099"),
        ("2099-06-01T24:00:00Z", "no hour 24"),
        ("2099-W23-1T12:00:00Z", "Weeks"),
        ("2099-06-01T12:00:00+24:00", "no offset +24:00"),
        ("2099-06-01T12:00:00 02:00", "in a URL + is written as %2B"),
        ("4102444800", "since 1970"),
    ],
)
def test_what_one_refuses_all_refuse_for_the_same_reason(
    client: FlaskClient, alice: Tenant, text: str, reason: str
) -> None:
    answers = _answers(client, alice, text)

    assert {status for status, _ in answers.values()} == {422}
    assert len({message for _, message in answers.values()}) == 1
    assert reason in answers["an event"][1]


@pytest.mark.parametrize("number", [4_102_444_800, 4_102_444_800.5, 1e300, 0])
def test_the_message_for_a_number_asks_for_a_text(client: FlaskClient, alice: Tenant, number: float) -> None:
    answers = _answers(client, alice, number)

    assert "Send a text such as" in answers["an event"][1]
    assert answers["an event"] == answers["an expiry"] == answers["a token's expiry"]


def test_the_plus_of_an_offset_that_a_url_has_turned_into_a_space_is_named(client: FlaskClient, alice: Tenant) -> None:
    headers = {"Authorization": f"Bearer {alice.token}"}

    refused = client.get("/v1/audit?from=2026-06-01T10:00:00+02:00", headers=headers)

    assert refused.status_code == 422
    assert "+02:00" in error_of(refused)["details"][0]["message"]
    assert client.get("/v1/audit?from=2026-06-01T10:00:00%2B02:00", headers=headers).status_code == 200


@pytest.mark.parametrize("wrong", [7, 1.5, [], {}, True])
def test_a_wrong_kind_of_value_is_worded_alike(client: FlaskClient, alice: Tenant, wrong: object) -> None:
    api = ApiClient(client, alice.token)
    event = send(client, alice, json.dumps(event_for(alice) | {"event_type": wrong}))
    project = api.post("/v1/projects", {"name": wrong, "description": wrong})

    messages = {detail["message"] for response in (event, project) for detail in error_of(response)["details"]}
    assert messages == {"Must be a string."}
