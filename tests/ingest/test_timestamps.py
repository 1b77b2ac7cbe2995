"""Timestamps that are far from their receipt: a source accepts, marks or refuses them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.context import Context
from app.ingest.services import EXTENSION as INGEST
from app.telemetry import metrics
from tests.ingest.test_batch import send_batch, verdicts_of
from tests.support.people import Tenant, events_of, execute, rows
from tests.support.sending import error_of, event_for, send

pytestmark = pytest.mark.wiring

_DAY = timedelta(days=1)
_FAR = ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "2036-02-07T06:28:16Z"]


def _at(distance: timedelta) -> str:
    return (datetime.now(UTC) + distance).isoformat()


def _let(context: Context, tenant: Tenant, policy: str, **bounds: int) -> None:
    changes = "".join(f", timestamp_{name}_seconds_max = {seconds}" for name, seconds in bounds.items())
    statement = f"UPDATE sources SET timestamp_policy = :policy{changes} WHERE id = :id"
    execute(context, statement, policy=policy, id=tenant.source_row)


def _marks(context: Context, tenant: Tenant) -> list[bool]:
    found = "SELECT is_occurred_at_far AS mark FROM events WHERE source_id = :id ORDER BY event_id"
    return [row.mark for row in rows(context, found, id=tenant.source_row)]


def _counted() -> float:
    return metrics.REGISTRY.get_sample_value("lariba_timestamps_far_total") or 0


class TestMark:
    """What a source does by default."""

    @pytest.mark.parametrize("far", [*_FAR, 1.5, -30.1])
    def test_what_is_far_is_stored_as_it_is_with_a_mark_and_counted(
        self, client: FlaskClient, context: Context, alice: Tenant, far: str | float
    ) -> None:
        timestamp, before = far if isinstance(far, str) else _at(far * _DAY), _counted()

        assert send(client, alice, event_for(alice, timestamp=timestamp)).status_code == 201

        (event,) = events_of(context, alice)
        assert event.occurred_at == datetime.fromisoformat(timestamp)
        assert _marks(context, alice) == [True]
        assert _counted() - before == 1

    @pytest.mark.parametrize("days", [None, 0.9, -29.5])
    def test_what_is_not_bears_none(
        self, client: FlaskClient, context: Context, alice: Tenant, days: float | None
    ) -> None:
        timestamp, before = None if days is None else _at(days * _DAY), _counted()
        send(client, alice, event_for(alice, timestamp=timestamp))

        assert (_marks(context, alice), _counted() - before) == ([False], 0)

    def test_in_a_batch_each_event_is_judged_by_itself(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        timestamps = [_FAR[0], None, _FAR[1], _at(-_DAY)]
        send_batch(client, alice, [event_for(alice, event_id=f"e{n}", timestamp=at) for n, at in enumerate(timestamps)])

        assert _marks(context, alice) == [True, False, True, False]


class TestAccept:
    @pytest.mark.parametrize("timestamp", _FAR)
    def test_what_is_far_is_stored_without_a_mark(
        self, client: FlaskClient, context: Context, alice: Tenant, timestamp: str
    ) -> None:
        _let(context, alice, "accept")

        assert send(client, alice, event_for(alice, timestamp=timestamp)).status_code == 201
        assert _marks(context, alice) == [False]


class TestRefuse:
    @pytest.mark.parametrize(
        ("distance", "says"),
        [
            (
                timedelta(hours=3, seconds=30),
                "It is 3:00:30 ahead of our clock, and this source takes 0:01:00 at the most.",
            ),
            (
                -400 * _DAY,
                "It is 400 days, 0:00:00 behind our clock, and this source takes 2 days, 0:00:00 at the most.",
            ),
        ],
    )
    def test_what_is_far_is_refused_and_the_message_says_by_how_much(
        self, client: FlaskClient, context: Context, alice: Tenant, distance: timedelta, says: str
    ) -> None:
        _let(context, alice, "refuse", ahead=60, behind=2 * 86_400)

        refused = send(client, alice, event_for(alice, timestamp=_at(distance)), idempotency_key="k")

        (fault,) = error_of(refused)["details"]
        assert (refused.status_code, error_of(refused)["code"]) == (422, "timestamp_out_of_range")
        assert fault["pointer"] == "/timestamp"
        assert _without_seconds(fault["message"]) == _without_seconds(says)
        assert events_of(context, alice) == []

    def test_its_key_is_free_for_the_right_time(self, client: FlaskClient, context: Context, alice: Tenant) -> None:
        _let(context, alice, "refuse")
        send(client, alice, event_for(alice, event_id="e", timestamp=_FAR[0]), idempotency_key="k")

        assert send(client, alice, event_for(alice, event_id="e"), idempotency_key="k").status_code == 201
        assert _marks(context, alice) == [False]

    def test_what_was_stored_before_is_answered_as_it_was(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        """Time goes on between a request and its repetition, and what was near may be far then."""
        event = event_for(alice, event_id="e", timestamp=_at(-_DAY))
        first = send(client, alice, event, idempotency_key="k")
        _let(context, alice, "refuse", behind=3600)

        again = send(client, alice, event, idempotency_key="k")
        known = send(client, alice, event)
        other = send(client, alice, event | {"payload": {}})

        assert (again.data, again.headers["Idempotent-Replayed"]) == (first.data, "true")
        assert (known.status_code, known.get_json()["status"]) == (200, "duplicate")
        assert error_of(other)["code"] == "duplicate_event"

    def test_in_a_batch_it_is_that_events_matter_unless_it_is_all_or_nothing(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        _let(context, alice, "refuse")
        batch = [event_for(alice, event_id="near"), event_for(alice, event_id="far", timestamp=_FAR[2])]

        assert (
            error_of(send_batch(client, alice, batch, query="?atomic=true"))["details"][0]["pointer"]
            == "/events/1/timestamp"
        )
        assert events_of(context, alice) == []
        near, far = verdicts_of(send_batch(client, alice, batch))

        assert near["status"] == "stored"
        assert (far["status"], far["code"], far["retryable"]) == ("rejected", "timestamp_out_of_range", False)
        assert far["details"][0]["pointer"] == "/timestamp"

    def test_it_counts_as_a_refusal(self, app: Flask, context: Context, alice: Tenant) -> None:
        _let(context, alice, "refuse")
        send(app.test_client(), alice, event_for(alice, timestamp=_FAR[0]))
        app.extensions[INGEST].refusals.flush()

        (row,) = rows(context, "SELECT outcome FROM usage_outbox WHERE source_id = :id", id=alice.source_row)
        assert row.outcome == "timestamp_out_of_range"

    def test_a_moment_that_is_left_out_is_never_far(self, client: FlaskClient, context: Context, alice: Tenant) -> None:
        _let(context, alice, "refuse", ahead=1, behind=1)

        assert send(client, alice).status_code == 201


def _without_seconds(message: str) -> Any:
    """The request took some of them."""
    first, _, rest = message.partition(" our clock")
    head, _, side = first.rpartition(":")
    return head, side.partition(" ")[2], rest
