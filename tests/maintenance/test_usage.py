"""Folding usage: exact, forward only, safe to run twice and at once."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Row, text

from app.context import Context
from app.database.engine import TenantScope
from app.database.owner import Owner
from app.maintenance.schedule import TASKS
from app.maintenance.task import TaskContext
from app.maintenance.usage import fold_usage
from tests.support.operating import api_of
from tests.support.people import Tenant, events_of, execute, rows
from tests.support.sending import event_for, send
from tests.support.waiting import wait_until

pytestmark = pytest.mark.wiring


def _counts(context: Context, tenant: Tenant) -> dict[str, int]:
    counted = rows(
        context,
        "SELECT outcome, sum(events)::bigint AS events FROM usage_hours WHERE project_id = :id GROUP BY 1",
        id=tenant.project_row,
    )
    return {row.outcome: row.events for row in counted}


def _key(context: Context, tenant: Tenant) -> Row[Any]:
    return rows(
        context,
        "SELECT key.first_used_at, key.last_used_at, key.last_addresses, key.xmin::text, key.updated_at,"
        " source.last_event_at"
        " FROM source_keys AS key"
        " JOIN sources AS source ON source.id = key.source_id WHERE key.id = :id",
        id=tenant.key_row,
    )[0]


def _seen(context: Context, tenant: Tenant) -> list[tuple[str, str]]:
    return [(entry["address"], entry["last_seen_at"]) for entry in _key(context, tenant).last_addresses]


def _note(
    context: Context,
    tenant: Tenant,
    at: str,
    *,
    outcome: str = "stored",
    events: int = 1,
    addresses: list[str] | None = None,
) -> None:
    """What the ingest transaction leaves of events of another time and from elsewhere."""
    execute(
        context,
        "INSERT INTO usage_outbox (project_id, usage_uid, workspace_id, source_id, source_key_id, outcome, events,"
        " payload_bytes, received_at, addresses)"
        " VALUES (:project, gen_random_uuid(), :workspace, :source, :key, :outcome, :events, 10, :at, :addresses)",
        project=tenant.project_row,
        workspace=tenant.workspace_row,
        source=tenant.source_row,
        key=tenant.key_row,
        outcome=outcome,
        events=events,
        at=at,
        addresses=addresses,
    )


_WAITS_FOR_A_ROW = (
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    " AND query LIKE '%usage_outbox%'"
)


def test_hourly_counts_say_what_was_accepted_and_how(client: FlaskClient, context: Context, alice: Tenant) -> None:
    event = event_for(alice, event_id="e")
    for key in ("a", "a", "b"):
        send(client, alice, event, idempotency_key=key)
    send(client, alice)
    send(client, alice, "not json")

    fold_usage(context.database)

    assert _counts(context, alice) == {"stored": 2, "replayed": 1, "duplicate": 1}
    assert rows(context, "SELECT 1 FROM usage_outbox WHERE project_id = :id", id=alice.project_row) == []


def test_the_worker_leaves_what_may_still_be_repeated(client: FlaskClient, context: Context, alice: Tenant) -> None:
    """In the outbox it is known which attempts have been counted."""
    for _ in range(2):
        send(client, alice, event_for(alice, event_id="e"))
    (task,) = (task for task in TASKS if task.name == "fold_usage")

    task.work(
        TaskContext(
            database=context.database,
            owner=Owner(context.settings.admin_database_url),
            settings=context.settings,
            now=datetime.now(UTC),
        )
    )

    left = rows(context, "SELECT outcome FROM usage_outbox WHERE project_id = :id", id=alice.project_row)
    assert [row.outcome for row in left] == ["duplicate"]
    assert _counts(context, alice) == {"stored": 1}


def test_the_key_and_the_source_show_when_they_were_last_used(
    client: FlaskClient, context: Context, alice: Tenant
) -> None:
    assert _key(context, alice).last_used_at is None
    send(client, alice)
    before = _key(context, alice)

    fold_usage(context.database)

    (event,) = events_of(context, alice)
    key = _key(context, alice)
    assert key.first_used_at == key.last_used_at == key.last_event_at == event.received_at
    assert key.updated_at == before.updated_at


def test_last_used_never_moves_backward(client: FlaskClient, context: Context, alice: Tenant) -> None:
    execute(context, "UPDATE source_keys SET last_used_at = '2100-01-01Z' WHERE id = :id", id=alice.key_row)
    send(client, alice)

    fold_usage(context.database)

    assert _key(context, alice).last_used_at.year == 2100


def test_first_used_never_moves_forward_and_finds_what_was_folded_late(context: Context, alice: Tenant) -> None:
    _note(context, alice, "2024-02-29T10:00:00Z")
    fold_usage(context.database)
    _note(context, alice, "2024-02-29T11:00:00Z")
    fold_usage(context.database)
    assert _key(context, alice).first_used_at.hour == 10

    _note(context, alice, "2024-02-29T09:00:00Z")
    _note(context, alice, "2024-02-29T12:00:00Z")
    fold_usage(context.database)

    assert (_key(context, alice).first_used_at.hour, _key(context, alice).last_used_at.hour) == (9, 12)


def test_a_fold_goes_past_what_another_one_is_folding(context: Context, alice: Tenant) -> None:
    for hour in (9, 10):
        _note(context, alice, f"2024-02-29T{hour:02}:00:00Z")
    with context.database.transaction(TenantScope.ALL) as session:
        taken = "SELECT FROM usage_outbox WHERE project_id = :id AND received_at = '2024-02-29T09:00:00Z' FOR UPDATE"
        session.execute(text(taken), {"id": alice.project_row})
        fold_usage(context.database)
        assert _counts(context, alice) == {"stored": 1}

    fold_usage(context.database)
    assert _counts(context, alice) == {"stored": 2}


@pytest.mark.parametrize("outcome", ["duplicate", "replayed"])
def test_what_was_accepted_without_being_stored_is_a_use_of_the_key_and_no_event(
    context: Context, alice: Tenant, outcome: str
) -> None:
    _note(context, alice, "2024-02-29T10:00:00Z", outcome=outcome)

    fold_usage(context.database)

    assert _key(context, alice).last_used_at.hour == 10
    assert _key(context, alice).last_event_at is None


def test_a_refusal_is_counted_and_is_no_use_of_the_key(context: Context, alice: Tenant) -> None:
    before = _key(context, alice)
    _note(context, alice, "2024-02-29T10:00:00Z", outcome="invalid_source_key", events=3, addresses=["192.0.2.1"])

    fold_usage(context.database)

    assert _counts(context, alice) == {"invalid_source_key": 3}
    assert _key(context, alice) == before


class TestAddresses:
    def test_each_stands_once_with_its_latest_moment_the_newest_first(self, context: Context, alice: Tenant) -> None:
        _note(context, alice, "2024-02-29T10:00:00Z", addresses=["192.0.2.1", "2001:db8::1"])
        _note(context, alice, "2024-02-29T11:00:00Z", addresses=["192.0.2.2"])
        fold_usage(context.database)
        _note(context, alice, "2024-02-29T12:00:00.5Z", addresses=["2001:db8::1"])
        fold_usage(context.database)

        assert _seen(context, alice) == [
            ("2001:db8::1", "2024-02-29T12:00:00.5+00:00"),
            ("192.0.2.2", "2024-02-29T11:00:00+00:00"),
            ("192.0.2.1", "2024-02-29T10:00:00+00:00"),
        ]

    def test_the_ten_newest_are_kept_however_many_there_were(self, context: Context, alice: Tenant) -> None:
        for hour in range(12):
            _note(context, alice, f"2024-02-29T{hour:02}:00:00Z", addresses=[f"192.0.2.{hour}", f"198.51.100.{hour}"])
            if hour % 4 == 0:
                fold_usage(context.database)
        fold_usage(context.database)

        newest = [f"{net}.{hour}" for hour in (11, 10, 9, 8, 7) for net in ("192.0.2", "198.51.100")]
        assert [address for address, _ in _seen(context, alice)] == newest

    def test_one_group_from_thousands_of_addresses_leaves_ten(self, context: Context, alice: Tenant) -> None:
        _note(context, alice, "2024-02-29T10:00:00Z", addresses=["192.0.2.1"])
        _note(context, alice, "2024-02-29T11:00:00Z", addresses=[f"2001:db8::{n:x}" for n in range(4_000)])
        _note(context, alice, "2024-02-29T12:00:00Z", addresses=["192.0.2.2"])
        fold_usage(context.database)

        addresses = [address for address, _ in _seen(context, alice)]
        assert (len(addresses), addresses[0]) == (10, "192.0.2.2")
        assert "192.0.2.1" not in addresses

    def test_what_is_folded_late_does_not_push_out_what_is_newer(self, context: Context, alice: Tenant) -> None:
        _note(context, alice, "2024-02-29T12:00:00Z", addresses=[f"192.0.2.{n}" for n in range(10)])
        fold_usage(context.database)
        _note(context, alice, "2024-02-29T11:00:00Z", addresses=["198.51.100.1", "192.0.2.3"])
        fold_usage(context.database)

        assert {address for address, _ in _seen(context, alice)} == {f"192.0.2.{n}" for n in range(10)}
        assert {moment for _, moment in _seen(context, alice)} == {"2024-02-29T12:00:00+00:00"}

    def test_a_fold_without_addresses_leaves_them_as_they_are(self, context: Context, alice: Tenant) -> None:
        _note(context, alice, "2024-02-29T10:00:00Z", addresses=["192.0.2.1"])
        fold_usage(context.database)
        _note(context, alice, "2024-02-29T11:00:00Z")
        _note(context, alice, "2024-02-29T11:00:00Z", addresses=[])
        fold_usage(context.database)

        assert _seen(context, alice) == [("192.0.2.1", "2024-02-29T10:00:00+00:00")]

    def test_folds_that_run_at_once_keep_each_others_addresses(self, context: Context, alice: Tenant) -> None:
        """The second one waits for the key's row and merges into what the first one has left."""
        _note(context, alice, "2024-02-29T10:00:00Z", addresses=["192.0.2.1"])
        with context.database.transaction(TenantScope.ALL) as holder:
            holder.execute(text("SELECT 1 FROM source_keys WHERE id = :id FOR UPDATE"), {"id": alice.key_row})
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(fold_usage, context.database)
                wait_until(lambda: rows(context, _WAITS_FOR_A_ROW))
                holder.execute(
                    text(
                        "UPDATE source_keys SET first_used_at = :at, last_used_at = :at, last_addresses = :seen"
                        " WHERE id = :id"
                    ),
                    {
                        "at": datetime(2024, 2, 29, 11, tzinfo=UTC),
                        "seen": '[{"address": "192.0.2.2", "last_seen_at": "2024-02-29T11:00:00+00:00"}]',
                        "id": alice.key_row,
                    },
                )
                holder.commit()
                waiting.result(timeout=10)

        assert [address for address, _ in _seen(context, alice)] == ["192.0.2.2", "192.0.2.1"]
        assert (_key(context, alice).first_used_at.hour, _key(context, alice).last_used_at.hour) == (10, 11)

    def test_many_folds_of_many_addresses_at_once_lose_none_of_the_newest(
        self, context: Context, alice: Tenant
    ) -> None:
        for n in range(60):
            _note(context, alice, f"2024-02-29T10:{n:02}:00Z", addresses=[f"192.0.2.{n}"])

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda _: fold_usage(context.database, batch_rows=4), range(6)))

        assert [address for address, _ in _seen(context, alice)] == [f"192.0.2.{n}" for n in range(59, 49, -1)]

    def test_a_key_shows_them(self, app: Flask, context: Context, alice: Tenant) -> None:
        _note(context, alice, "2024-02-29T10:00:00Z", addresses=["192.0.2.1"])
        fold_usage(context.database)

        shown = api_of(app, alice).get(f"/v1/keys/{alice.key_id}").json

        assert shown is not None
        assert shown["first_used_at"] == shown["last_used_at"] == "2024-02-29T10:00:00Z"
        assert shown["last_addresses"] == [{"address": "192.0.2.1", "last_seen_at": "2024-02-29T10:00:00Z"}]


def test_folds_that_run_at_once_count_everything_once(
    client: FlaskClient, context: Context, alice: Tenant, charlie: Tenant
) -> None:
    for n in range(30):
        send(client, alice if n % 2 else charlie)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: fold_usage(context.database, batch_rows=3), range(6)))

    assert _counts(context, alice) == _counts(context, charlie) == {"stored": 15}


def test_a_fold_that_fails_leaves_the_outbox_as_it_was(client: FlaskClient, context: Context, alice: Tenant) -> None:
    send(client, alice)
    execute(
        context,
        "INSERT INTO usage_outbox SELECT project_id, gen_random_uuid(), workspace_id, source_id, source_key_id,"
        " outcome, 1, 9223372036854775807, received_at FROM usage_outbox, generate_series(1, 2) WHERE project_id = :id",
        id=alice.project_row,
    )
    try:
        fold_usage(context.database)
    except Exception as error:  # noqa: BLE001 - whatever the database says of a sum beyond bigint
        assert "out of range" in str(error)  # noqa: PT017
    remaining = rows(context, "SELECT 1 FROM usage_outbox WHERE project_id = :id", id=alice.project_row)
    execute(context, "DELETE FROM usage_outbox WHERE payload_bytes > 10000000")

    assert len(remaining) == 3
    fold_usage(context.database)
    assert _counts(context, alice) == {"stored": 1}
