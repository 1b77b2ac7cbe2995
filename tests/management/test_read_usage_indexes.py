"""Usage of reads looks at the hours that were asked for, however many there are; as the app's role, below policies."""

from typing import Any

import psycopg
import pytest
from flask import Flask

from app.context import Context
from tests.support.operating import api_of
from tests.support.people import Tenant, execute, make_tenant, rows
from tests.support.plans import asked_of, most_looked_at

_HOURS = 2_000
_TOKENS = 10
_DAY = {"from": "2024-02-29T00:00:00Z", "to": "2024-03-01T00:00:00Z"}


@pytest.fixture(scope="module", name="large_tenant")
def _large_tenant(context: Context) -> Tenant:
    """With ten tokens that have read in each hour for months."""
    tenant = make_tenant(context)
    execute(
        context,
        "INSERT INTO management_tokens (public_id, workspace_id, secret_hash)"
        " SELECT 'tok_reads' || n, :workspace, '' FROM generate_series(2, :tokens) AS n",
        workspace=tenant.workspace_row,
        tokens=_TOKENS,
    )
    execute(
        context,
        "INSERT INTO read_hours SELECT workspace_id, id, timestamptz '2024-02-01Z' + n * interval '1 hour', :project,"
        " 'searchEvents', 'answered', 1, 1, 1 FROM management_tokens, generate_series(1, :hours) AS n"
        " WHERE workspace_id = :workspace",
        workspace=tenant.workspace_row,
        project=tenant.project_row,
        hours=_HOURS,
    )
    with psycopg.connect(context.settings.admin_database_url, autocommit=True) as owner:
        owner.execute("ANALYZE read_hours, management_tokens")  # as autovacuum does in its time
    assert len(rows(context, "SELECT 1 FROM read_hours WHERE workspace_id = :id", id=tenant.workspace_row)) >= 20_000
    return tenant


@pytest.mark.parametrize("group_by", ["none", "token", "project", "operation"])
@pytest.mark.parametrize("narrowed", ["", "token_id", "project_id"])
def test_a_day_looks_at_the_rows_of_that_day(
    app: Flask, context: Context, large_tenant: Tenant, group_by: str, narrowed: str
) -> None:
    only: dict[str, Any] = {narrowed: getattr(large_tenant, narrowed)} if narrowed else {}

    with asked_of(context, "read_hours") as asked:
        usage = api_of(app, large_tenant).get("/v1/usage/reads", group_by=group_by, **_DAY, **only).json
    assert usage is not None

    shown = 24 if narrowed == "token_id" else 24 * _TOKENS
    assert usage["total"]["answered"] == shown
    assert most_looked_at(context, large_tenant, asked, "read_hours") <= 2 * shown


def test_a_token_over_all_time_looks_at_its_own_rows(app: Flask, context: Context, large_tenant: Tenant) -> None:
    query = {"from": "2020-01-01T00:00:00Z", "interval": "day", "token_id": large_tenant.token_id}

    with asked_of(context, "read_hours") as asked:
        usage = api_of(app, large_tenant).get("/v1/usage/reads", **query).json
    assert usage is not None

    assert usage["total"]["answered"] == _HOURS
    assert most_looked_at(context, large_tenant, asked, "read_hours") <= 2 * _HOURS
