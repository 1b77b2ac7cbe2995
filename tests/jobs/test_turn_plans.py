"""To give a turn, the worker reads the pending jobs alone, whatever ended ones a workspace has of any kind."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, event

from app.database.engine import TenantScope
from app.jobs import turns
from app.jobs.kinds import KINDS
from tests.support.installation import Installation
from tests.support.people import execute

_ENDED = 3_000
_COLUMNS = "workspace_id, project_id, requested_by, public_id, begins_at, ends_at, state, ended_at, turn_at"
_VALUES = (
    ":workspace, :project, 'cli', 'j' || n, :now, :now, CASE WHEN n = 1 THEN 'queued' ELSE 'completed' END,"
    " CASE WHEN n > 1 THEN CAST(:now AS timestamptz) END, CAST(:now AS timestamptz) - n * interval '1 second'"
)
_OWN = {
    "exports": ("names, format", "'{}'::jsonb, 'ndjson'"),
    "replays": (
        "names, target_project_id, target_source_id, source_key_id, rate, last_position",
        "'{}'::jsonb, :project, :source, :key, 1, 0",
    ),
}


@pytest.mark.parametrize("table", [kind.model.__tablename__ for kind in KINDS])
def test_turns_are_given_without_reading_jobs_that_have_ended(installation: Installation, table: str) -> None:
    tenant = installation.tenant()
    own_columns, own_values = _OWN[table]
    parameters = {"source": tenant.source_row, "key": tenant.key_row} if table == "replays" else {}
    execute(
        installation.context,
        f"INSERT INTO {table} ({_COLUMNS}, {own_columns})"
        f" SELECT {_VALUES}, {own_values} FROM generate_series(1, {_ENDED}) n",
        workspace=tenant.workspace_row,
        project=tenant.project_row,
        now=datetime(2026, 6, 1, tzinfo=UTC),
        **parameters,
    )
    installation.sql(f"ANALYZE {table}")  # as autovacuum does in its time
    plans: list[dict[str, Any]] = []

    def explain(connection: Connection, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if re.search(rf"(FROM|UPDATE) {table}\b", statement):
            cursor = connection.connection.cursor()
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
            ((found,),) = cursor.fetchall()
            plans.append(found[0]["Plan"])

    event.listen(installation.database.engine, "before_cursor_execute", explain)
    try:
        with installation.database.transaction(TenantScope.ALL) as session:
            assert turns.read_pending(session, KINDS, 10).jobs == 1
            assert turns._take_turn(session, KINDS) is not None  # noqa: SLF001 - what a run asks for each turn
    finally:
        event.remove(installation.database.engine, "before_cursor_execute", explain)

    assert len(plans) == 3
    for plan in plans:
        assert _read(plan, table) <= 10, json.dumps(plan, indent=1)


def _read(node: dict[str, Any], table: str) -> float:
    """The rows of a table that a plan has looked at."""
    own = 0
    if node.get("Relation Name") == table and node["Node Type"] != "ModifyTable":
        own = node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
    return float(own) + sum(_read(each, table) for each in node.get("Plans", ()))
