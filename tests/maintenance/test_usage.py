"""Folding usage: exact, forward only, safe to run twice and at once."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Row

from app.context import Context
from app.maintenance.usage import fold_usage
from tests.people import Tenant, events_of, execute, rows
from tests.sending import event_for, send

pytestmark = pytest.mark.wiring


def _counts(house: Context, tenant: Tenant) -> dict[str, int]:
    counted = rows(
        house,
        "SELECT outcome, sum(events)::bigint AS events FROM usage_hours WHERE project_id = :id GROUP BY 1",
        id=tenant.project_row,
    )
    return {row.outcome: row.events for row in counted}


def _key(house: Context, tenant: Tenant) -> Row[Any]:
    return rows(
        house,
        "SELECT key.last_used_at, key.updated_at, source.last_event_at FROM source_keys AS key"
        " JOIN sources AS source ON source.id = key.source_id WHERE key.id = :id",
        id=tenant.key_row,
    )[0]


def test_hourly_counts_say_what_was_accepted_and_how(client: FlaskClient, house: Context, alice: Tenant) -> None:
    event = event_for(alice, event_id="e")
    for key in ("a", "a", "b"):
        send(client, alice, event, idempotency_key=key)
    send(client, alice)
    send(client, alice, "not json")

    fold_usage(house.database)

    assert _counts(house, alice) == {"stored": 2, "replayed": 1, "duplicate": 1}
    assert rows(house, "SELECT 1 FROM usage_outbox WHERE project_id = :id", id=alice.project_row) == []


def test_the_key_and_the_source_show_when_they_were_last_used(
    client: FlaskClient, house: Context, alice: Tenant
) -> None:
    assert _key(house, alice).last_used_at is None
    send(client, alice)
    before = _key(house, alice)

    fold_usage(house.database)

    (event,) = events_of(house, alice)
    key = _key(house, alice)
    assert key.last_used_at == key.last_event_at == event.received_at
    assert key.updated_at == before.updated_at


def test_last_used_never_moves_backward(client: FlaskClient, house: Context, alice: Tenant) -> None:
    execute(house, "UPDATE source_keys SET last_used_at = '2100-01-01Z' WHERE id = :id", id=alice.key_row)
    send(client, alice)

    fold_usage(house.database)

    assert _key(house, alice).last_used_at.year == 2100


def test_folds_that_run_at_once_count_everything_once(
    client: FlaskClient, house: Context, alice: Tenant, charlie: Tenant
) -> None:
    for n in range(30):
        send(client, alice if n % 2 else charlie)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: fold_usage(house.database, batch_rows=3), range(6)))

    assert _counts(house, alice) == _counts(house, charlie) == {"stored": 15}


def test_a_fold_that_fails_leaves_the_outbox_as_it_was(client: FlaskClient, house: Context, alice: Tenant) -> None:
    send(client, alice)
    execute(
        house,
        "INSERT INTO usage_outbox SELECT project_id, gen_random_uuid(), source_id, source_key_id, outcome,"
        " 9223372036854775807, received_at FROM usage_outbox, generate_series(1, 2) WHERE project_id = :id",
        id=alice.project_row,
    )
    try:
        fold_usage(house.database)
    except Exception as error:  # noqa: BLE001 - whatever the database says of a sum beyond bigint
        assert "out of range" in str(error)  # noqa: PT017
    remaining = rows(house, "SELECT 1 FROM usage_outbox WHERE project_id = :id", id=alice.project_row)
    execute(house, "DELETE FROM usage_outbox WHERE payload_bytes > 10000000")

    assert len(remaining) == 3
    fold_usage(house.database)
    assert _counts(house, alice) == {"stored": 1}
