"""Purging records, requests and event ids: only the old ones, bounded, safe at once."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count
from types import SimpleNamespace

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.context import Context
from app.database.engine import TenantScope
from app.maintenance.purge import purge_expired_records, purge_expired_requests, purge_old_event_ids
from app.maintenance.task import TaskResult
from tests.support.operating import api_of
from tests.support.people import Tenant, execute, rows
from tests.support.sending import event_for, send

_NOW = datetime.now(UTC)

pytestmark = pytest.mark.wiring


def _keys(context: Context, tenant: Tenant) -> set[str]:
    records = rows(
        context,
        "SELECT idempotency_key AS key FROM idempotency_records WHERE source_id = :id",
        id=tenant.source_row,
    )
    return {record.key for record in records}


def _expired(client: FlaskClient, context: Context, tenant: Tenant, keys: list[str]) -> None:
    for key in keys:
        send(client, tenant, idempotency_key=key)
    execute(
        context,
        "UPDATE idempotency_records SET expires_at = :at WHERE source_id = :id",
        at=_NOW - timedelta(seconds=1),
        id=tenant.source_row,
    )


def test_expired_records_leave_and_live_ones_stay(client: FlaskClient, context: Context, alice: Tenant) -> None:
    _expired(client, context, alice, ["old"])
    send(client, alice, idempotency_key="new")

    purge_expired_records(context.database, now=_NOW)

    assert _keys(context, alice) == {"new"}


def test_a_purge_stops_when_its_time_is_over_and_the_next_one_goes_on(
    client: FlaskClient, context: Context, alice: Tenant
) -> None:
    purge_expired_records(context.database, now=_NOW)
    _expired(client, context, alice, list("abcde"))

    first = purge_expired_records(context.database, now=_NOW, batch_rows=2, is_over=lambda: True)
    assert first == TaskResult(rows=2, has_more=True)
    assert purge_expired_records(context.database, now=_NOW, batch_rows=2) == TaskResult(rows=3)
    assert _keys(context, alice) == set()


def test_a_purge_rests_longer_than_it_works_between_two_batches(
    client: FlaskClient, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    purge_expired_records(context.database, now=_NOW)
    _expired(client, context, alice, list("abc"))
    rests: list[float] = []
    # Each look at this clock is two seconds after the one before.
    clock = SimpleNamespace(monotonic=count(step=2).__next__, sleep=rests.append)
    monkeypatch.setattr("app.maintenance.task.time", clock)

    assert purge_expired_records(context.database, now=_NOW, batch_rows=2) == TaskResult(rows=3)
    assert rests == [3.0]


def test_purges_that_run_at_once_share_the_work(client: FlaskClient, context: Context, alice: Tenant) -> None:
    purge_expired_records(context.database, now=_NOW)
    _expired(client, context, alice, [f"k{n}" for n in range(40)])

    with ThreadPoolExecutor(4) as pool:
        purged = list(pool.map(lambda _: purge_expired_records(context.database, now=_NOW, batch_rows=3), range(4)))

    assert sum(done.rows for done in purged) == 40


def test_a_record_that_a_request_is_just_renewing_is_not_taken_away(
    client: FlaskClient, context: Context, alice: Tenant
) -> None:
    _expired(client, context, alice, ["k"])
    with context.database.transaction(TenantScope.ALL) as session:
        session.connection().exec_driver_sql(
            "UPDATE idempotency_records SET expires_at = %s WHERE source_id = %s",
            (_NOW + timedelta(hours=1), alice.source_row),
        )
        purge_expired_records(context.database, now=_NOW)

    assert _keys(context, alice) == {"k"}


def test_expired_requests_of_the_management_api_leave_and_live_ones_stay(
    app: Flask, context: Context, alice: Tenant
) -> None:
    api = api_of(app, alice)
    for key in ("old", "new"):
        api.post(
            "/v1/projects", {"name": key}, headers={"Authorization": f"Bearer {alice.token}", "Idempotency-Key": key}
        )
    execute(
        context,
        "UPDATE management_requests SET expires_at = :at WHERE workspace_id = :id AND idempotency_key = 'old'",
        at=_NOW - timedelta(seconds=1),
        id=alice.workspace_row,
    )

    assert purge_expired_requests(context.database, now=_NOW, batch_rows=1) == TaskResult(rows=1)

    left = rows(
        context, "SELECT idempotency_key FROM management_requests WHERE workspace_id = :id", id=alice.workspace_row
    )
    assert [row.idempotency_key for row in left] == ["new"]


def test_an_event_id_protects_for_its_days_and_can_be_used_again_after_them(
    client: FlaskClient, context: Context, alice: Tenant
) -> None:
    for event_id, days in (("old", 91), ("young", 89)):
        send(client, alice, event_for(alice, event_id=event_id))
        execute(
            context,
            "UPDATE event_ledger SET received_at = :at WHERE source_id = :id AND event_id = :event_id",
            at=_NOW - timedelta(days=days),
            id=alice.source_row,
            event_id=event_id,
        )

    purge_old_event_ids(context.database, now=_NOW, days=90)

    again = [send(client, alice, event_for(alice, event_id=event_id)).status_code for event_id in ("old", "young")]
    assert again == [201, 200]
