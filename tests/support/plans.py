"""How many rows of a table the product's own statements look at, by PostgreSQL's account of their plans."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from app.context import Context
from tests.support.people import Tenant

Asked = list[tuple[str, Any]]
"""Statements with their parameters."""


@contextmanager
def asked_of(context: Context, table: str) -> Iterator[Asked]:
    """The statements on `table` that are sent within the block, and what was set for them."""
    asked: Asked = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if f"FROM {table}" in statement or "'enable_" in statement:
            asked.append((statement, parameters))

    event.listen(context.database.engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(context.database.engine, "before_cursor_execute", note)


def most_looked_at(context: Context, tenant: Tenant, asked: Asked, table: str) -> int:
    """The rows of `table` that the greediest of the statements looks at, sent again as the app's role."""
    looked_at = []
    with context.database.transaction(tenant.workspace_row) as session:
        connection = session.connection().connection.dbapi_connection
        assert connection is not None
        for statement, parameters in asked:
            cursor = connection.cursor()
            if f"FROM {table}" not in statement:
                cursor.execute(statement)
                continue
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
            ((plans,),) = cursor.fetchall()
            looked_at.append(_looked_at(plans[0]["Plan"], table))
    assert looked_at
    return max(looked_at)


def _looked_at(node: dict[str, Any], table: str) -> int:
    """The rows of `table` that a plan's scans have held in their hands."""
    own = 0
    if node.get("Relation Name") == table:
        own = node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
    return int(own) + sum(_looked_at(child, table) for child in node.get("Plans", []))
