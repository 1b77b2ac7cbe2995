"""POST /v1/events/ingest: what is taken, what is stored of it, and what a repeat is answered."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.context import Context
from tests.support.people import Tenant, events_of, execute, issue_key, rows, source_of
from tests.support.sending import error_of, event_for, send

pytestmark = pytest.mark.wiring


def test_the_public_example_is_stored_as_it_was_sent(client: FlaskClient, context: Context, alice: Tenant) -> None:
    event = event_for(
        alice,
        event_id="evt_demo_001",
        environment="production",
        severity="critical",
        timestamp="2026-06-01T10:00:00Z",
        payload={"amount": 49.99, "currency": "EUR", "reason": "card_declined"},
    )

    response = send(client, alice, event, idempotency_key="demo-request-001")

    assert response.status_code == 201
    assert response.get_data(as_text=True) == '{"accepted": true, "event_id": "evt_demo_001", "status": "stored"}'
    assert "Idempotent-Replayed" not in response.headers
    (stored,) = events_of(context, alice)
    assert (stored.event_id, stored.event_type, stored.severity) == (
        "evt_demo_001",
        "payment.failed",
        "critical",
    )
    assert stored.occurred_at == datetime(2026, 6, 1, 10, tzinfo=UTC)
    assert (stored.workspace_id, stored.source_key_id) == (alice.workspace_row, alice.key_row)
    assert json.loads(stored.payload_text) == event["payload"]


def test_absent_members_get_their_defaults(client: FlaskClient, context: Context, alice: Tenant) -> None:
    response = send(client, alice)

    assert response.json is not None
    (stored,) = events_of(context, alice)
    assert stored.event_id == response.json["event_id"] == f"evt_{stored.event_uid}"
    assert stored.event_uid.version == 7
    assert stored.severity == "info"
    assert stored.occurred_at == stored.received_at


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("2026-06-01T12:00:00+02:00", datetime(2026, 6, 1, 10, tzinfo=UTC)),
        ("2026-06-01T10:00:00", datetime(2026, 6, 1, 10, tzinfo=UTC)),
        ("2026-06-01T10:00:00.123456Z", datetime(2026, 6, 1, 10, 0, 0, 123456, tzinfo=UTC)),
        ("2026-06-01T10:00:00.123456789Z", datetime(2026, 6, 1, 10, 0, 0, 123456, tzinfo=UTC)),
        ("2026-06-01t10:00:00z", datetime(2026, 6, 1, 10, tzinfo=UTC)),
        ("2026-06-01 10:00Z", datetime(2026, 6, 1, 10, tzinfo=UTC)),
        ("2026-06-01T10:00:00,5Z", datetime(2026, 6, 1, 10, 0, 0, 500_000, tzinfo=UTC)),
        ("20260601T100000Z", datetime(2026, 6, 1, 10, tzinfo=UTC)),
        ("2026-06-01", datetime(2026, 6, 1, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59Z", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_a_timestamp_is_kept_as_the_same_moment(
    client: FlaskClient, context: Context, alice: Tenant, sent: str, meant: datetime
) -> None:
    assert send(client, alice, event_for(alice, timestamp=sent)).status_code == 201

    moment = rows(
        context,
        "SELECT extract(epoch FROM occurred_at) AS at FROM events WHERE source_id = :id",
        id=alice.source_row,
    )
    assert moment[0].at == Decimal(str((meant - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))) / 10**6


@pytest.mark.parametrize(
    "payload",
    [
        '{"n": 123456789012345678901234567890, "f": 0.1000000000000000055511151231257827, "z": 1.10}',
        '{"n": ' + "9" * 308 + "}",
        '{"n": 1e300, "m": -1.5E-300, "big": 1e308}',
        '{"emoji": "😀", "escaped": "\\ud83d\\ude00", "line": "\\u2028", "private": "\\uf8ff", "max": "\U0010ffff"}',
        '{"": {"deep": [[[[{"a": [null, true, false]}]]]]}}',
        "{}",
    ],
)
def test_a_payload_comes_back_equal_to_the_last_digit(
    client: FlaskClient, context: Context, alice: Tenant, payload: str
) -> None:
    body = f'{{"event_type": "a", "source_id": "{alice.source_id}", "payload": {payload}}}'

    assert send(client, alice, body).status_code == 201

    (stored,) = events_of(context, alice)
    assert _exactly(stored.payload_text) == _exactly(payload)


def test_of_a_member_given_twice_in_the_payload_the_last_one_wins(
    client: FlaskClient, context: Context, alice: Tenant
) -> None:
    body = f'{{"event_type": "a", "source_id": "{alice.source_id}", "payload": {{"x": 1, "x": 2}}}}'

    assert send(client, alice, body).status_code == 201

    assert events_of(context, alice)[0].payload_text == '{"x": 2}'


def test_a_payload_may_nest_32_levels_and_weigh_256_kibibytes(
    client: FlaskClient, context: Context, alice: Tenant
) -> None:
    wide = {"text": "x" * (262_144 - len('{"text": ""}'))}

    assert send(client, alice, _with_depth(alice, 32)).status_code == 201
    assert send(client, alice, event_for(alice, payload=wide)).status_code == 201
    assert len(events_of(context, alice)) == 2


class TestRepeats:
    def test_the_same_key_and_content_is_answered_from_the_record(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        first = send(client, alice, idempotency_key="k")
        again = send(client, alice, idempotency_key="k")

        assert (again.status_code, again.data) == (first.status_code, first.data)
        assert again.headers["Idempotent-Replayed"] == "true"
        assert len(events_of(context, alice)) == 1

    def test_content_is_compared_by_value_not_by_text(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        first = f'{{"event_type":"a","source_id":"{alice.source_id}","payload":{{"x":1,"y":[1.50, 100]}}}}'
        source = f'"source_id": "{alice.source_id}"'
        again = f'{{ "payload": {{"y": [15e-1,1E2], "x": 1.0}},\n{source}, "event_type": "\\u0061"}}'

        assert send(client, alice, first, idempotency_key="k").status_code == 201
        assert send(client, alice, again, idempotency_key="k").headers["Idempotent-Replayed"] == "true"
        assert len(events_of(context, alice)) == 1

    @pytest.mark.parametrize(
        "other", ["1.0000000000000000000000000001", "10000000000000000000000000001", "true", '"1"']
    )
    def test_numbers_that_differ_in_the_last_digit_are_other_content(
        self, client: FlaskClient, alice: Tenant, other: str
    ) -> None:
        def body(number: str) -> str:
            return f'{{"event_type":"a","source_id":"{alice.source_id}","payload":{{"x":{number}}}}}'

        one = "10000000000000000000000000000" if len(other) > 28 and "." not in other else "1"
        send(client, alice, body(one), idempotency_key="k")

        assert error_of(send(client, alice, body(other), idempotency_key="k"))["code"] == "idempotency_key_reused"

    def test_a_quoted_key_and_its_bare_content_are_the_same_key(self, client: FlaskClient, alice: Tenant) -> None:
        send(client, alice, idempotency_key="abc")

        assert send(client, alice, idempotency_key='"abc"').headers["Idempotent-Replayed"] == "true"

    def test_the_key_belongs_to_the_source_so_a_rotated_credential_still_replays(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        _, _, successor = issue_key(context, source_of(context, alice))
        first = send(client, alice, idempotency_key="k")

        again = send(client, alice, key=successor, idempotency_key="k")

        assert again.data == first.data
        assert again.headers["Idempotent-Replayed"] == "true"

    def test_two_sources_may_use_the_same_key_and_the_same_event_id(
        self, client: FlaskClient, context: Context, alice: Tenant, charlie: Tenant
    ) -> None:
        for person in (alice, charlie):
            response = send(client, person, event_for(person, event_id="e"), idempotency_key="k")
            assert response.status_code == 201
            assert "Idempotent-Replayed" not in response.headers
            assert len(events_of(context, person)) == 1

    @pytest.mark.parametrize("key", [None, "another"])
    def test_a_known_event_with_the_same_content_is_a_duplicate(
        self, client: FlaskClient, context: Context, alice: Tenant, key: str | None
    ) -> None:
        event = event_for(alice, event_id="e")
        send(client, alice, event, idempotency_key="first")

        again = send(client, alice, event, idempotency_key=key)

        assert (again.status_code, again.json) == (
            200,
            {"accepted": True, "event_id": "e", "status": "duplicate"},
        )
        assert len(events_of(context, alice)) == 1

    def test_the_receipt_of_a_duplicate_is_replayed_too(self, client: FlaskClient, alice: Tenant) -> None:
        event = event_for(alice, event_id="e")
        send(client, alice, event)
        duplicate = send(client, alice, event, idempotency_key="k")

        replay = send(client, alice, event, idempotency_key="k")

        assert (replay.status_code, replay.data) == (200, duplicate.data)
        assert replay.headers["Idempotent-Replayed"] == "true"

    def test_an_expired_record_that_is_not_purged_yet_counts_as_none(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        send(client, alice, idempotency_key="k")
        _expire_records(context, alice)

        again = send(client, alice, event_for(alice, payload={"other": "content"}), idempotency_key="k")

        assert again.status_code == 201
        assert "Idempotent-Replayed" not in again.headers
        assert len(events_of(context, alice)) == 2

    def test_after_its_record_expired_an_event_is_still_kept_single_by_its_id(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        event = event_for(alice, event_id="e")
        send(client, alice, event, idempotency_key="k")
        _expire_records(context, alice)

        assert send(client, alice, event, idempotency_key="k").status_code == 200
        assert len(events_of(context, alice)) == 1

    def test_a_refused_attempt_leaves_its_key_free(self, client: FlaskClient, context: Context, alice: Tenant) -> None:
        send(client, alice, event_for(alice, event_id="e"))
        for refused in (
            event_for(alice, event_id="e", payload={"other": 1}),
            event_for(alice, severity="loud"),
            event_for(alice, environment="staging"),
        ):
            assert send(client, alice, refused, idempotency_key="k").status_code in (403, 409, 422)

        assert send(client, alice, idempotency_key="k").status_code == 201
        assert len(events_of(context, alice)) == 2


def test_a_slow_upload_is_no_wait_for_the_database(
    client: FlaskClient, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body that takes a minute to arrive: the clock of the ingest path jumps while it is read."""
    passed = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0], sleep=time.sleep)
    monkeypatch.setattr("app.ingest.acceptance.time", clock)
    monkeypatch.setattr("app.credentials.table.time", clock)

    def read_slowly() -> bytes:
        passed[0] += 60
        return json.dumps(event_for(alice)).encode()

    monkeypatch.setattr("app.ingest.routes.read_bytes", read_slowly)

    assert send(client, alice).status_code == 201
    assert len(events_of(context, alice)) == 1


def test_each_accepted_request_leaves_one_usage_row(
    client: FlaskClient, context: Context, tenant: Callable[[], Tenant]
) -> None:
    bob = tenant()
    event = event_for(bob, event_id="e")
    send(client, bob, event, idempotency_key="k")
    send(client, bob, event, idempotency_key="k")
    send(client, bob, event)
    send(client, bob, event_for(bob, event_id="e", payload={}))

    outcomes = rows(
        context,
        "SELECT outcome FROM usage_outbox WHERE project_id = :id UNION ALL"
        " SELECT outcome FROM usage_hours, generate_series(1, events) WHERE project_id = :id ORDER BY 1",
        id=bob.project_row,
    )
    assert [row.outcome for row in outcomes] == ["duplicate", "replayed", "stored"]


def _with_depth(tenant: Tenant, levels: int) -> str:
    payload = '{"a":' * levels + "1" + "}" * levels
    return f'{{"event_type": "a", "source_id": "{tenant.source_id}", "payload": {payload}}}'


def _exactly(text: str) -> Any:
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def _expire_records(context: Context, tenant: Tenant) -> None:
    execute(
        context,
        "UPDATE idempotency_records SET expires_at = now() - interval '1 second' WHERE source_id = :id",
        id=tenant.source_row,
    )
