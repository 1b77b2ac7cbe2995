"""deploy/audit.sql: what an operator asks of a database that was restored."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from flask.testing import FlaskClient
from psycopg.rows import dict_row

from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from app.database.migrate import migrate
from app.factory import create_app
from app.maintenance.usage import fold_usage
from tests.support.databases import close, fresh_database
from tests.support.people import Tenant, make_tenant
from tests.support.sending import event_for, send

Rows = list[dict[str, Any]]
_SINGLES, _IN_BATCH = 3, 5
_STORED = _SINGLES + _IN_BATCH
_LOSE = {
    "an event": "DELETE FROM events WHERE ctid = (SELECT min(ctid) FROM events)",
    "a claim": "DELETE FROM event_ledger WHERE ctid = (SELECT min(ctid) FROM event_ledger)",
    "the usage": "DELETE FROM usage_outbox WHERE outcome = 'stored'",
}


@pytest.fixture(scope="module", name="installation")
def _installation(server_url: str, credentials: Credentials) -> Iterator[tuple[Settings, Context, FlaskClient]]:
    with fresh_database(server_url) as fresh:
        settings = replace(fresh, database_pool_size=4)
        migrate(settings)
        app = create_app(settings, credentials=credentials)
        yield settings, app.extensions[EXTENSION], app.test_client()
        close(app.extensions[EXTENSION].database)


@pytest.fixture(name="owner")
def _owner(installation: tuple[Settings, Context, FlaskClient]) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """The owner's connection to an installation with eight events, each sent twice."""
    settings, context, client = installation
    with psycopg.connect(settings.admin_database_url, autocommit=True, row_factory=dict_row) as owner:
        for table in ("events", "event_ledger", "idempotency_records", "usage_outbox", "usage_hours"):
            owner.execute(f"TRUNCATE {table}")
        alice = make_tenant(context)
        for _ in range(2):
            for number in range(_SINGLES):
                assert send(client, alice, event_for(alice, event_id=f"e{number}"), idempotency_key=f"k{number}").json
            _send_batch(client, alice)
        yield owner


def test_whatever_was_stored_and_repeated_the_audit_finds_it_whole(
    owner: psycopg.Connection[dict[str, Any]], checkout: Path
) -> None:
    (day,), (records,), amounts = _audit(owner, checkout)

    assert (day["events"], day["in_ledger"], day["in_usage"]) == (_STORED, _STORED, _STORED)
    assert (day["not_in_ledger"], day["without_event"], day["finding"]) == (0, 0, "whole")
    assert (records["records"], records["without_event"]) == (_SINGLES, 0)
    assert {row["what"]: row["rows"] for row in amounts}["events"] == _STORED


def test_folding_usage_changes_nothing(
    installation: tuple[Settings, Context, FlaskClient], owner: psycopg.Connection[dict[str, Any]], checkout: Path
) -> None:
    fold_usage(installation[1].database)

    (day,), _, amounts = _audit(owner, checkout)
    assert (day["in_usage"], day["finding"]) == (_STORED, "whole")
    assert {row["what"]: row["rows"] for row in amounts}["usage_outbox"] == 0


@pytest.mark.parametrize(
    ("lost", "finding", "not_in_ledger", "without_event"),
    [("an event", "fewer events", 0, 1), ("a claim", "fewer in the ledger", 1, 0), ("the usage", "differs", 0, 0)],
)
def test_what_is_lost_is_found(
    owner: psycopg.Connection[dict[str, Any]],
    checkout: Path,
    lost: str,
    finding: str,
    not_in_ledger: int,
    without_event: int,
) -> None:
    owner.execute(_LOSE[lost].encode())

    (day,), _, _ = _audit(owner, checkout)
    assert (day["finding"], day["not_in_ledger"], day["without_event"]) == (finding, not_in_ledger, without_event)


def test_an_event_that_is_there_twice_is_found(owner: psycopg.Connection[dict[str, Any]], checkout: Path) -> None:
    owner.execute("CREATE TEMPORARY TABLE copy AS SELECT * FROM events WHERE event_id = 'e0'")
    owner.execute("UPDATE copy SET event_uid = gen_random_uuid()")
    owner.execute("INSERT INTO events SELECT * FROM copy")

    (day,), _, _ = _audit(owner, checkout)
    assert (day["events"], day["not_in_ledger"], day["finding"]) == (_STORED + 1, 1, "differs")


def test_a_record_whose_event_is_gone_is_found(owner: psycopg.Connection[dict[str, Any]], checkout: Path) -> None:
    owner.execute("DELETE FROM events WHERE event_id = 'e0'")

    _, (records,), _ = _audit(owner, checkout)
    assert records["without_event"] == 1


def test_days_that_retention_or_the_ledger_have_left_are_distinguished(
    owner: psycopg.Connection[dict[str, Any]], checkout: Path
) -> None:
    """Yesterday's events are dropped; of the day before the ledger is."""
    for table, moment in (("events", "received_at"), ("event_ledger", "received_at"), ("usage_outbox", "received_at")):
        owner.execute(f"UPDATE {table} SET {moment} = {moment} - interval '2 days'".encode())
    owner.execute("TRUNCATE event_ledger")
    owner.execute(
        "INSERT INTO usage_hours (project_id, source_key_id, hour, outcome, workspace_id, source_id, events,"
        " payload_bytes) VALUES (1, 1, date_trunc('hour', now(), 'UTC') - interval '1 day', 'stored', 1, 1, 4, 4)"
    )

    days, _, _ = _audit(owner, checkout)
    assert [(day["events"], day["in_ledger"], day["in_usage"], day["finding"]) for day in days] == [
        (_STORED, 0, _STORED, "fewer in the ledger"),
        (0, 0, 4, "fewer events"),
    ]


def _send_batch(client: FlaskClient, tenant: Tenant) -> None:
    events = [event_for(tenant, event_id=f"b{number}") for number in range(_IN_BATCH)]
    headers = {"X-API-Key": tenant.key, "Idempotency-Key": "batch"}
    assert client.post("/v1/events/ingest/batch", json={"events": events}, headers=headers).status_code == 200


def _audit(owner: psycopg.Connection[dict[str, Any]], checkout: Path) -> tuple[Rows, Rows, Rows]:
    """The three answers, as psql would show them."""
    cursor = owner.execute((checkout / "deploy" / "audit.sql").read_bytes())
    answers = [cursor.fetchall()] if cursor.description else []
    while cursor.nextset():
        if cursor.description:
            answers.append(cursor.fetchall())
    days, records, amounts = answers
    return days, records, amounts
