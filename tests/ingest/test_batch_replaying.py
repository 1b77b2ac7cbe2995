"""POST /v1/events/ingest/batch with an Idempotency-Key: it names the whole batch, and replays the whole answer."""

import json
from collections.abc import Callable

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.context import Context
from tests.ingest.test_batch import NDJSON, send_batch, statuses_of, usage_of
from tests.support.people import Tenant, events_of, execute, issue_key, source_of
from tests.support.sending import error_of, event_for, send

pytestmark = pytest.mark.wiring


@pytest.fixture(name="client")
def _client(app: Flask) -> FlaskClient:
    """Batches never take the fast path, so one client is enough."""
    return app.test_client()


def test_the_whole_answer_is_replayed_byte_for_byte(client: FlaskClient, context: Context, alice: Tenant) -> None:
    events = [event_for(alice), event_for(alice, severity="loud"), event_for(alice, event_id="e")]
    first = send_batch(client, alice, events, "k")

    again = send_batch(client, alice, events, "k")

    assert statuses_of(first) == ["stored", "schema_validation_failed", "stored"]
    assert "Idempotent-Replayed" not in first.headers
    assert (again.status_code, again.data, again.headers["Idempotent-Replayed"]) == (200, first.data, "true")
    assert len(events_of(context, alice)) == 2


@pytest.mark.parametrize("forms", [("application/json", NDJSON), (NDJSON, "application/json")])
def test_both_forms_of_a_body_are_the_same_batch(client: FlaskClient, alice: Tenant, forms: tuple[str, str]) -> None:
    events = [event_for(alice), event_for(alice, severity="loud"), '{"half": "\\ud800"}', "[]"]
    first, again = (send_batch(client, alice, events, "k", content_type=form) for form in forms)

    assert (again.data, again.headers["Idempotent-Replayed"]) == (first.data, "true")


def test_line_ends_and_spaces_around_an_event_are_no_content(client: FlaskClient, alice: Tenant) -> None:
    lines = [json.dumps(event_for(alice)), '{"severity": "loud"}']
    first = send_batch(client, alice, "\n".join(lines).encode(), "k", content_type=NDJSON)

    again = send_batch(client, alice, " \t\r\n \r\n ".join(lines).encode() + b" \r\n", "k", content_type=NDJSON)

    assert (again.data, again.headers["Idempotent-Replayed"]) == (first.data, "true")


def test_events_that_mean_the_same_are_the_same_batch(client: FlaskClient, alice: Tenant) -> None:
    source = f'"source_id": "{alice.source_id}"'
    send_batch(client, alice, [f'{{"event_type": "a", {source}, "payload": {{"x": 1.0}}}}'], "k")

    again = send_batch(client, alice, [f'{{"payload":{{"x":1}},"event_type":"\\u0061",{source}}}'], "k")

    assert again.headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize("change", ["other", "more", "fewer", "turned", "atomic"])
def test_a_key_that_comes_with_another_batch_is_refused(
    client: FlaskClient, context: Context, alice: Tenant, change: str
) -> None:
    events = [event_for(alice, event_id="1"), event_for(alice, event_id="2")]
    other = [events[0], event_for(alice, event_id="2", payload={})]
    changed = {"other": other, "more": [*events, events[0]], "fewer": events[:1], "turned": events[::-1]}
    send_batch(client, alice, events, "k")

    query = "?atomic=true" if change == "atomic" else ""
    response = send_batch(client, alice, changed.get(change, events), "k", query)

    assert (response.status_code, error_of(response)["code"]) == (422, "idempotency_key_reused")
    assert len(events_of(context, alice)) == 2


@pytest.mark.parametrize("is_batch_first", [True, False])
def test_a_key_names_one_request_be_it_an_event_or_a_batch(
    client: FlaskClient, context: Context, alice: Tenant, *, is_batch_first: bool
) -> None:
    event = event_for(alice)
    sending: list[Callable[[], TestResponse]] = [
        lambda: send_batch(client, alice, [event], "k"),
        lambda: send(client, alice, event, idempotency_key="k"),
    ]
    first, second = sending if is_batch_first else sending[::-1]

    assert first().status_code in (200, 201)
    assert error_of(second())["code"] == "idempotency_key_reused"
    assert first().headers["Idempotent-Replayed"] == "true"
    assert len(events_of(context, alice)) == 1


def test_a_rotated_key_replays_and_another_source_does_not(
    client: FlaskClient, context: Context, alice: Tenant, charlie: Tenant
) -> None:
    _, _, successor = issue_key(context, source_of(context, alice))
    send_batch(client, alice, [event_for(alice)], "k")

    again = send_batch(client, alice, [event_for(alice)], "k", headers={"X-API-Key": successor})
    others = send_batch(client, charlie, [event_for(charlie)], "k")

    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in others.headers


def test_an_expired_record_counts_as_none_and_the_new_one_is_replayed(
    client: FlaskClient, context: Context, alice: Tenant
) -> None:
    one, two = [event_for(alice, event_id="e")], [event_for(alice)]
    send_batch(client, alice, one, "k")
    expire_records(context, alice)

    first, again = (send_batch(client, alice, one + two, "k") for _ in range(2))

    assert statuses_of(first) == ["duplicate", "stored"]
    assert (again.data, again.headers["Idempotent-Replayed"]) == (first.data, "true")
    assert "Idempotent-Replayed" not in first.headers


def test_a_replay_counts_the_events_that_were_accepted(client: FlaskClient, context: Context, alice: Tenant) -> None:
    events = [event_for(alice, payload={})] * 2 + [event_for(alice, environment="x"), event_for(alice, severity=1)]
    for _ in range(2):
        send_batch(client, alice, events, "k")

    assert usage_of(context, alice) == {("stored", 2, 4), ("replayed", 2, 4)}


def expire_records(context: Context, tenant: Tenant) -> None:
    execute(
        context,
        "UPDATE idempotency_records SET expires_at = now() - interval '1 second' WHERE source_id = :id",
        id=tenant.source_row,
    )
