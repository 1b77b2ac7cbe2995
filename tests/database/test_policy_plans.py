"""What the planner expects row security to admit: by it, it chooses the plans of the worker and the operator."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, event

from app.config import Settings
from app.context import Context
from app.maintenance.purge import purge_expired_records
from app.models import Base
from tests.support.people import Tenant, execute

_RECORDS = 20_000


@pytest.fixture(name="app_role")
def _app_role(settings: Settings) -> Iterator[psycopg.Connection]:
    """The app's role in a transaction over all workspaces."""
    with psycopg.connect(settings.database_url, options="-c lariba.all_workspaces=on") as connection:
        yield connection


def _expected_rows(connection: psycopg.Connection, table: str) -> int:
    """How many rows the planner expects of a statement that reads all."""
    ((plans,),) = connection.execute(f"EXPLAIN (FORMAT JSON) SELECT * FROM {table}").fetchall()
    return int(plans[0]["Plan"]["Plan Rows"])


# event_days is the owner's alone.
@pytest.mark.parametrize("table", sorted(set(Base.metadata.tables) - {"event_days"}))
def test_a_transaction_over_all_workspaces_is_expected_to_see_a_good_part_of_every_table(
    settings: Settings, app_role: psycopg.Connection, table: str
) -> None:
    """Partitions have copies of the policies of `events` (test_partition_row_security.py)."""
    with psycopg.connect(settings.admin_database_url) as owner:
        rows = _expected_rows(owner, table)

    assert _expected_rows(app_role, table) >= rows * 0.4


def test_a_purge_finds_the_oldest_records_by_their_index_and_sorts_none(
    settings: Settings, context: Context, alice: Tenant
) -> None:
    execute(
        context,
        "INSERT INTO idempotency_records SELECT :project, :source, :workspace, 'k' || n, '', gen_random_uuid(), 201,"
        " '', now(), timestamptz '2020-01-01Z' + n * interval '1 second'"
        " FROM generate_series(1, :records) AS n",
        project=alice.project_row,
        source=alice.source_row,
        workspace=alice.workspace_row,
        records=_RECORDS,
    )
    with psycopg.connect(settings.admin_database_url, autocommit=True) as owner:
        owner.execute("ANALYZE idempotency_records")  # as autovacuum does in its time
    plans: list[str] = []

    def explain(connection: Connection, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if statement.lstrip().startswith("DELETE"):
            cursor = connection.connection.cursor()
            cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
            plans.append(json.dumps(cursor.fetchall()))

    event.listen(context.database.engine, "before_cursor_execute", explain)
    try:
        purge_expired_records(context.database, now=datetime(2021, 1, 1, tzinfo=UTC))
    finally:
        event.remove(context.database.engine, "before_cursor_execute", explain)

    # The later batches find the statistics of a table that is emptying.
    assert "ix_idempotency_records_expires_at" in plans[0]
    assert '"Sort"' not in plans[0]
