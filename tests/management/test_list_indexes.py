"""A page of a list reads about as many rows as it shows, however many there are; as the app's role, below policies."""

import psycopg
import pytest
from flask import Flask

from app.context import Context
from tests.support.operating import ApiClient, api_of
from tests.support.people import Tenant, execute, make_tenant
from tests.support.plans import asked_of, most_looked_at

_ROWS = 5_000
_LOOKED_AT_MAX = 300
_CREATED_AT = "now() - n * interval '1 minute'"
_FILL = {
    "projects": "INSERT INTO projects (public_id, workspace_id, name, created_at)"
    f" SELECT 'prj_many' || n, :workspace, 'many ' || n, {_CREATED_AT} FROM generate_series(1, :rows) AS n",
    "environments": "INSERT INTO environments (public_id, workspace_id, project_id, name, created_at)"
    f" SELECT 'env_many' || n, :workspace, :project, 'many ' || n, {_CREATED_AT} FROM generate_series(1, :rows) AS n",
    "sources": "INSERT INTO sources (public_id, workspace_id, project_id, environment_id, name, type, created_at)"
    f" SELECT 'src_many' || n, workspace_id, project_id, environment_id, 'many ' || n, type, {_CREATED_AT}"
    " FROM sources, generate_series(1, :rows) AS n WHERE id = :source",
    "source_keys": "INSERT INTO source_keys (public_id, workspace_id, project_id, source_id, secret_hash, created_at)"
    f" SELECT 'key_many' || n, :workspace, :project, :source, '', {_CREATED_AT} FROM generate_series(1, :rows) AS n",
    "exports": "INSERT INTO exports (public_id, workspace_id, project_id, requested_by, names, begins_at, ends_at,"
    " format, state, ended_at, created_at) SELECT 'exp_many' || n, :workspace, :project, 'cli', '{}', now(), now(),"
    f" 'csv', 'cancelled', now(), {_CREATED_AT} FROM generate_series(1, :rows) AS n",
    "management_tokens": "INSERT INTO management_tokens (public_id, workspace_id, secret_hash, created_at)"
    f" SELECT 'tok_many' || n, :workspace, '', {_CREATED_AT} FROM generate_series(1, :rows) AS n",
}


@pytest.fixture(scope="module", name="large_tenant")
def _large_tenant(context: Context) -> Tenant:
    """With many of everything."""
    tenant = make_tenant(context)
    rows = {"workspace": tenant.workspace_row, "project": tenant.project_row, "source": tenant.source_row}
    for statement in _FILL.values():
        used = {name: row for name, row in rows.items() if f":{name}" in statement}
        execute(context, statement, **used, rows=_ROWS)
    with psycopg.connect(context.settings.admin_database_url, autocommit=True) as owner:
        owner.execute(f"ANALYZE {', '.join(_FILL)}")  # as autovacuum does in its time
    return tenant


@pytest.fixture(name="api")
def _api(app: Flask, large_tenant: Tenant) -> ApiClient:
    return api_of(app, large_tenant)


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ("projects", "/v1/projects"),
        ("environments", "/v1/projects/{project_id}/environments"),
        ("sources", "/v1/sources"),
        ("source_keys", "/v1/keys"),
        ("source_keys", "/v1/sources/{source_id}/keys"),
        ("management_tokens", "/v1/tokens"),
        ("exports", "/v1/exports"),
    ],
)
def test_a_page_and_the_next_one_look_at_little_more_than_they_show(
    api: ApiClient, context: Context, large_tenant: Tenant, table: str, path: str
) -> None:
    path = path.format(project_id=large_tenant.project_id, source_id=large_tenant.source_id)

    with asked_of(context, table) as asked:
        first = api.get(path).json or {}
        assert len(first["data"]) == 50
        following = api.get(path, cursor=first["next_cursor"]).json or {}
        assert len(following["data"]) == 50

    assert most_looked_at(context, large_tenant, asked, table) <= _LOOKED_AT_MAX
