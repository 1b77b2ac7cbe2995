"""Every query of the audit log reads about as many entries as it shows: as the app's role, below its policies."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from flask import Flask

from app.context import Context
from app.management.common.operators import Role
from app.management.tokens.domain import NewToken
from tests.support.operating import ApiClient, api_of, api_with
from tests.support.people import Tenant, execute, make_tenant
from tests.support.plans import Asked, asked_of, most_looked_at

_TABLE = "audit_entries"
_ENTRIES = 20_000
_BEGIN = datetime(2020, 1, 1, tzinfo=UTC)
"""An entry each ten minutes since then; the first sixty are rare in every respect."""
_LOOKED_AT_MAX = 300


@pytest.fixture(scope="module", name="tenant_with_a_past")
def _tenant_with_a_past(context: Context) -> Tenant:
    tenant = make_tenant(context)
    execute(
        context,
        "INSERT INTO audit_entries (workspace_id, project_id, actor, action, object_id, after, created_at)"
        " SELECT :workspace, CASE WHEN n <= 60 THEN :project END, 'cli',"
        "  CASE WHEN n <= 60 THEN 'rare.seen' ELSE (ARRAY['source_key.issue', 'source_key.revoke'])[1 + n % 2] END,"
        "  'n' || n, '{}', CAST(:begin AS timestamptz) + n * interval '10 minutes' FROM generate_series(1, :entries) n",
        workspace=tenant.workspace_row,
        project=tenant.project_row,
        begin=_BEGIN,
        entries=_ENTRIES,
    )
    with psycopg.connect(context.settings.admin_database_url, autocommit=True) as owner:
        owner.execute("ANALYZE audit_entries")  # as autovacuum does in its time
    return tenant


@pytest.fixture(name="past")
def _past(app: Flask, tenant_with_a_past: Tenant) -> ApiClient:
    return api_of(app, tenant_with_a_past)


def _sorts(node: dict[str, Any]) -> bool:
    return node["Node Type"] == "Sort" or any(_sorts(child) for child in node.get("Plans", []))


def _plans(context: Context, tenant: Tenant, asked: Asked, *, misled_by: str) -> list[dict[str, Any]]:
    """The plans of a planner that this statement has misled."""
    plans = []
    with context.database.transaction(tenant.workspace_row) as session:
        connection = session.connection().connection.dbapi_connection
        assert connection is not None
        cursor = connection.cursor()
        cursor.execute(misled_by)
        for statement, parameters in asked:
            if f"FROM {_TABLE}" not in statement:
                cursor.execute(statement)
                continue
            cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
            ((explained,),) = cursor.fetchall()
            plans.append(explained[0]["Plan"])
    return plans


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


_OLD = {"from": _iso(_BEGIN + timedelta(days=3)), "to": _iso(_BEGIN + timedelta(days=4))}
_ALL = {"from": "0001-01-01T00:00:00Z", "to": "9999-12-31T23:59:59Z"}


@pytest.mark.parametrize("path", ["/v1/audit", "/v1/audit/export"])
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, None),
        ({"action": "source_key.issue"}, None),
        ({"action": "source_key.*"}, None),
        ({"action": "rare.seen"}, 60),
        ({"action": "rare.*"}, 60),
        ({"action": "nothing.*"}, 0),
        ({"object_id": "n77"}, 1),
        ({"actor": "tok_nobody"}, 0),
        (_OLD, 144),
        (_OLD | {"action": "source_key.*"}, 144),
        ({"to": _iso(_BEGIN + timedelta(hours=1))}, 5),
        # With an end: other tests leave entries of today.
        ({"from": _iso(_BEGIN + timedelta(minutes=10 * _ENTRIES)), "to": _iso(_BEGIN + timedelta(days=365))}, 1),
        # Wide, and far from the end at which a walk by ids would begin.
        ({"to": _iso(_BEGIN + timedelta(days=50))}, None),
        ({"from": _iso(_BEGIN + timedelta(days=90))}, None),
        ({"from": _iso(_BEGIN + timedelta(days=30)), "to": _iso(_BEGIN + timedelta(days=60))}, None),
        (_ALL, None),
        (_ALL | {"action": "nothing.seen"}, 0),
    ],
    ids=str,
)
def test_a_question_looks_at_little_more_than_it_shows(
    past: ApiClient, context: Context, tenant_with_a_past: Tenant, path: str, query: dict[str, str], found: int | None
) -> None:
    with asked_of(context, _TABLE) as asked:
        answer = past.get(path, **query)
        assert answer.status_code == 200
    is_export = path.endswith("export")
    if found is not None:
        assert answer.text.count('"id"') == (found if is_export else min(found, 50))
    # An export that shows all looks at all, a chunk of five hundred at a time.
    assert most_looked_at(context, tenant_with_a_past, asked, _TABLE) <= _LOOKED_AT_MAX + (1_000 if is_export else 0)


def test_a_token_for_a_quiet_project_does_not_go_through_the_others(
    app: Flask, context: Context, tenant_with_a_past: Tenant
) -> None:
    new = NewToken(role=Role.AUDITOR, project_ids=(tenant_with_a_past.project_id,))
    api = api_with(app, context, tenant_with_a_past, new)

    with asked_of(context, _TABLE) as asked:
        assert len(api.all_of("/v1/audit")) == 60
    assert most_looked_at(context, tenant_with_a_past, asked, _TABLE) <= _LOOKED_AT_MAX


@pytest.mark.parametrize("path", ["/v1/audit", "/v1/audit/export"])
@pytest.mark.parametrize("action", ["source_key.issue", "source_key.*"])
def test_no_plan_sorts_however_dear_the_planner_thinks_an_index(
    past: ApiClient, context: Context, tenant_with_a_past: Tenant, path: str, action: str
) -> None:
    """With unlucky statistics it would read the whole range again for each chunk, and sort it."""
    dear = "SET LOCAL random_page_cost = 1000; SET LOCAL cpu_index_tuple_cost = 1000"
    with asked_of(context, _TABLE) as asked:
        assert past.get(path, action=action).status_code == 200
    statements = [each for each in asked if f"FROM {_TABLE}" in each[0]]

    assert any(map(_sorts, _plans(context, tenant_with_a_past, statements, misled_by=dear)))
    assert not any(map(_sorts, _plans(context, tenant_with_a_past, asked, misled_by=dear)))
