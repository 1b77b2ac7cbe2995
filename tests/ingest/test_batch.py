"""POST /v1/events/ingest/batch: what is taken, what is stored of it, and what a repeat is answered."""

import json
from collections.abc import Sequence
from typing import Any, Final

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.context import Context
from tests.support.people import Tenant, events_of, rows
from tests.support.sending import PATH, error_of, event_for, send

BATCH_PATH: Final = f"{PATH}/batch"
NDJSON: Final = "application/x-ndjson"

pytestmark = pytest.mark.wiring


@pytest.fixture(name="client")
def _client(app: Flask) -> FlaskClient:
    """Batches never take the fast path, so one client is enough."""
    return app.test_client()


def send_batch(  # noqa: PLR0917
    client: FlaskClient,
    tenant: Tenant,
    events: Sequence[Any] | bytes,
    idempotency_key: str | None = None,
    query: str = "",
    content_type: str | None = "application/json",
    headers: dict[str, str] | None = None,
) -> TestResponse:
    """POST `events` (or bytes as they are) with the tenant's key; as lines if `content_type` is NDJSON."""
    body = events if isinstance(events, bytes) else body_of(events, content_type)
    sent = {"X-API-Key": tenant.key} | ({"Idempotency-Key": idempotency_key} if idempotency_key else {})
    return client.post(BATCH_PATH + query, data=body, headers=sent | (headers or {}), content_type=content_type)


def body_of(events: Sequence[Any], content_type: str | None = "application/json") -> bytes:
    """The body of a batch; an event that is text already goes in as it is."""
    texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
    if content_type == NDJSON:
        return "".join(f"{text}\n" for text in texts).encode()
    return f'{{"events": [{", ".join(texts)}]}}'.encode()


def verdicts_of(response: TestResponse) -> list[dict[str, Any]]:
    """The verdicts of an answered batch, checked against its totals."""
    assert (response.status_code, response.mimetype) == (200, "application/json"), response.data
    assert response.json is not None
    verdicts: list[dict[str, Any]] = response.json["verdicts"]
    statuses = [verdict["status"] for verdict in verdicts]
    assert response.json["totals"] == {name: statuses.count(name) for name in ("stored", "duplicate", "rejected")}
    return verdicts


def statuses_of(response: TestResponse) -> list[str]:
    return [verdict.get("code") or verdict["status"] for verdict in verdicts_of(response)]


def usage_of(context: Context, tenant: Tenant) -> set[tuple[str, int, int]]:
    """Rows of usage, folded or not: (outcome, events, bytes of payload)."""
    columns = "outcome, events, payload_bytes"
    statement = f"SELECT {columns} FROM usage_outbox WHERE project_id = :id UNION ALL SELECT {columns} FROM usage_hours"
    return {tuple(row) for row in rows(context, f"{statement} WHERE project_id = :id", id=tenant.project_row)}


class TestTaking:
    def test_each_event_gets_its_verdict_in_order_and_the_totals_count_them(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        send(client, alice, event_for(alice, event_id="old"))
        events = [event_for(alice, event_id=name) for name in ("b", "old", "a")]
        events.insert(2, event_for(alice, event_id="old", payload={"other": 1}))

        response = send_batch(client, alice, [*events, event_for(alice, severity="loud")])

        assert statuses_of(response) == ["stored", "duplicate", "duplicate_event", "stored", "schema_validation_failed"]
        assert [verdict.get("event_id") for verdict in verdicts_of(response)] == ["b", "old", "old", "a", None]
        assert {event.event_id for event in events_of(context, alice)} == {"a", "b", "old"}

    def test_the_answer_is_exactly_this(self, client: FlaskClient, alice: Tenant) -> None:
        response = send_batch(client, alice, [event_for(alice, event_id="e")])

        assert response.get_data(as_text=True) == (
            '{"verdicts": [{"event_id": "e", "status": "stored"}],'
            ' "totals": {"stored": 1, "duplicate": 0, "rejected": 0}}'
        )
        assert {"RateLimit", "RateLimit-Policy", "X-Request-ID"} <= set(response.headers.keys())

    def test_a_rejected_event_gets_the_error_of_a_single_one(self, client: FlaskClient, alice: Tenant) -> None:
        wrong = event_for(alice, event_id="e", severity="loud")
        single = error_of(send(client, alice, wrong))

        (verdict,) = verdicts_of(send_batch(client, alice, [wrong]))

        assert verdict == {"status": "rejected"} | {
            name: single[name] for name in ("code", "message", "retryable", "details")
        }

    @pytest.mark.parametrize("form", ["application/json", NDJSON, "application/json; charset=UTF-8"])
    def test_each_member_is_stored_as_by_a_single_request(
        self, client: FlaskClient, context: Context, alice: Tenant, form: str
    ) -> None:
        payload = '{"n": 123456789012345678901234567890, "f": 0.1000000000000000055511151231257827, "ü": "\\u2028"}'
        event = f'{{"event_id": "e", "event_type": "a.b", "source_id": "{alice.source_id}", "payload": {payload},'
        event += ' "severity": "critical", "timestamp": "2026-06-01T12:00:00+02:00", "environment": "production"}'

        assert statuses_of(send_batch(client, alice, [event], content_type=form)) == ["stored"]

        (stored,) = events_of(context, alice)
        assert (stored.event_id, stored.event_type, stored.severity) == ("e", "a.b", "critical")
        assert (stored.workspace_id, stored.source_key_id) == (alice.workspace_row, alice.key_row)
        assert stored.occurred_at.isoformat() == "2026-06-01T10:00:00+00:00"
        assert all(digits in stored.payload_text for digits in ("123456789012345678901234567890", "511151231257827"))

    def test_an_event_without_an_id_gets_one_of_ours(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        verdicts = verdicts_of(send_batch(client, alice, [event_for(alice)] * 3))

        assert [verdict["status"] for verdict in verdicts] == ["stored"] * 3
        assert {verdict["event_id"] for verdict in verdicts} == {it.event_id for it in events_of(context, alice)}
        assert all(it.event_id == f"evt_{it.event_uid}" for it in events_of(context, alice))

    def test_a_thousand_events_are_a_batch(self, client: FlaskClient, context: Context, alice: Tenant) -> None:
        events = [event_for(alice, event_id=f"e{n}") for n in range(1_000)]

        assert statuses_of(send_batch(client, alice, events)) == ["stored"] * 1_000
        assert len(events_of(context, alice)) == 1_000

    def test_a_batch_may_be_much_larger_than_a_single_request(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        events = [event_for(alice, payload={"text": "x" * 260_000})] * 20

        assert len(body_of(events)) > 5_200_000
        assert statuses_of(send_batch(client, alice, events)) == ["stored"] * 20
        assert len(events_of(context, alice)) == 20

    def test_all_rows_of_a_batch_are_of_one_transaction(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        send_batch(client, alice, [event_for(alice) for _ in range(50)], "k")

        tables = ("events", "event_ledger", "idempotency_records", "usage_outbox")
        each = [f"SELECT xmin::text FROM {table} WHERE project_id = :id" for table in tables]
        assert len(rows(context, " UNION ".join(each), id=alice.project_row)) == 1

    def test_only_the_workspace_of_the_key_gets_anything(
        self, client: FlaskClient, context: Context, alice: Tenant, charlie: Tenant
    ) -> None:
        response = send_batch(client, alice, [event_for(charlie, event_id="e"), event_for(alice, event_id="e")])

        assert statuses_of(response) == ["source_mismatch", "stored"]
        assert events_of(context, charlie) == []


class TestDuplicates:
    def test_of_one_event_id_in_a_batch_the_first_is_stored(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        events = [event_for(alice, event_id="e", payload={"n": n}) for n in (1, 1, 2, 1)]

        response = send_batch(client, alice, events)

        assert statuses_of(response) == ["stored", "duplicate", "duplicate_event", "duplicate"]
        assert [event.payload_text for event in events_of(context, alice)] == ['{"n": 1}']

    def test_an_event_that_is_rejected_does_not_take_its_id(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        wrong = event_for(alice, event_id="e", environment="staging")

        response = send_batch(client, alice, [wrong, event_for(alice, event_id="e", payload={"n": 2})])

        assert statuses_of(response) == ["environment_mismatch", "stored"]
        assert [event.payload_text for event in events_of(context, alice)] == ['{"n": 2}']

    def test_a_batch_and_single_events_know_each_others_events(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        one, two = event_for(alice, event_id="1"), event_for(alice, event_id="2")
        send(client, alice, one)

        assert statuses_of(send_batch(client, alice, [one, two])) == ["duplicate", "stored"]
        assert send(client, alice, two).status_code == 200
        assert len(events_of(context, alice)) == 2

    def test_a_batch_that_is_repeated_without_a_key_stores_nothing_again(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        events = [event_for(alice, event_id=f"e{n}") for n in range(3)]
        send_batch(client, alice, events)

        assert statuses_of(send_batch(client, alice, events[::-1])) == ["duplicate"] * 3
        assert len(events_of(context, alice)) == 3


def test_a_batch_leaves_one_row_of_usage_for_each_outcome(client: FlaskClient, context: Context, alice: Tenant) -> None:
    old, new = event_for(alice, event_id="old", payload={}), event_for(alice, payload={"n": 1})
    send_batch(client, alice, [old])

    send_batch(client, alice, [new, old, new, event_for(alice, severity="loud")])

    assert usage_of(context, alice) == {("stored", 1, 2), ("stored", 2, 16), ("duplicate", 1, 2)}
