"""Cells on the Citus cluster of TEST_CITUS_URL, which is a superuser's way to a database of its coordinator.

A cell is a schema with two roles, which lives as long as the block.
"""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.config import Settings
from app.database.conninfo import conninfo_of
from app.database.migrate import migrate
from tests.support.databases import SECRET_KEY
from tests.support.servers import database_url

CELL: Final = "ci1"
_SHARD: Final = """
    SELECT shardid, nodename, nodeport FROM pg_dist_shard
    JOIN pg_dist_placement USING (shardid) JOIN pg_dist_node USING (groupid)
    WHERE logicalrelid = (%s || '.workspaces')::regclass
"""


_MOVE: Final = "SELECT citus_schema_move(%s::regnamespace, %s, %s, 'auto')"
_TRIES: Final = 20
# The rows of a tenant, one statement each: Citus plans no WITH clause that writes for one node.
_ROWS: Final = {
    "workspace_row": "INSERT INTO workspaces (public_id, name) VALUES (:workspace_id, :name) RETURNING id",
    "project_row": """
        INSERT INTO projects (public_id, name, workspace_id) VALUES (:project_id, 'shop', :workspace_row) RETURNING id
    """,
    "environment_row": """
        INSERT INTO environments (public_id, name, workspace_id, project_id)
        VALUES (:environment_id, 'production', :workspace_row, :project_row) RETURNING id
    """,
    "source_row": """
        INSERT INTO sources (public_id, name, type, workspace_id, project_id, environment_id)
        VALUES (:source_id, 'checkout', 'backend', :workspace_row, :project_row, :environment_row) RETURNING id
    """,
    "token_row": """
        INSERT INTO management_tokens (public_id, workspace_id, label, secret_hash, secret_digest)
        VALUES (:token_id, :workspace_row, 'first', :token_hash, :token_digest) RETURNING id
    """,
    "key_row": """
        INSERT INTO source_keys (public_id, workspace_id, project_id, source_id, secret_hash, secret_digest)
        VALUES (:key_id, :workspace_row, :project_row, :source_row, :key_hash, :key_digest) RETURNING id
    """,
}


def insert_apart(session: Session, values: dict[str, Any]) -> dict[str, int]:
    """As people.insert_at_once()."""
    rows: dict[str, int] = {}
    for name, statement in _ROWS.items():
        rows[name] = session.execute(text(statement), values | rows).scalar_one()
    return {name: rows[name] for name in ("workspace_row", "project_row", "source_row", "key_row")}


class Node(NamedTuple):
    host: str
    port: int


class CitusCell(NamedTuple):
    """A migrated cell, and who knows of it."""

    settings: Settings
    schema: str
    cluster_url: str

    def through(self, node: Node) -> Settings:
        """The settings of a process that speaks to this node."""
        app = conninfo_of(self.settings.database_url)
        return replace(
            self.settings,
            database_url=f"postgresql://{app['user']}:test@{node.host}:{node.port}/{app['dbname']}",
        )

    def coordinator(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.cluster_url, autocommit=True)

    def nodes(self) -> list[Node]:
        """The coordinator first."""
        with self.coordinator() as connection:
            found = connection.execute("SELECT nodename, nodeport FROM pg_dist_node ORDER BY groupid").fetchall()
        return [Node(str(host), int(port)) for host, port in found]

    def owner(self) -> Node:
        """The node that has its rows."""
        with self.coordinator() as connection:
            row = connection.execute(_SHARD, [self.schema]).fetchone()
        assert row is not None
        return Node(row[1], row[2])

    def others(self) -> list[Node]:
        owner = self.owner()
        return [node for node in self.nodes() if node != owner]

    def move(self, to: Node) -> None:
        """Move it, once what an earlier move has left is gone: Citus drops that when nobody reads it any more."""
        with self.coordinator() as connection:
            for _ in range(_TRIES):
                try:
                    connection.execute("CALL citus_cleanup_orphaned_resources()")
                    connection.execute(_MOVE, [self.schema, to.host, to.port])
                except psycopg.errors.InternalError as error:
                    if "could not be cleaned up" not in str(error):
                        raise
                    time.sleep(1)
                else:
                    return
            raise AssertionError("what an earlier move has left stays")


@contextmanager
def citus_cell(cluster_url: str) -> Iterator[CitusCell]:
    name = f"lariba_test_{secrets.token_hex(4)}"
    database = conninfo_of(cluster_url)["dbname"]
    owner, app, schema = (sql.Identifier(each) for each in (f"{name}_owner", f"{name}_app", name))
    with psycopg.connect(cluster_url, autocommit=True) as server:
        for role in (owner, app):
            server.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'test'").format(role))
            server.execute(sql.SQL("ALTER ROLE {} SET search_path = {}").format(role, schema))
        server.execute(sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(schema, owner))
    settings = Settings(
        database_url=database_url(cluster_url, f"{name}_app", database),
        admin_database_url=database_url(cluster_url, f"{name}_owner", database),
        broker_url=os.environ.get("TEST_BROKER_URL", "memory://"),
        secret_key=(SECRET_KEY,),
        log_level="WARNING",
        cells=(CELL,),
        database_pool_size=16,
        management_token_requests_per_second=None,
        management_workspace_requests_per_second=None,
    )
    try:
        migrate(settings)
        yield CitusCell(settings, name, cluster_url)
    finally:
        with psycopg.connect(cluster_url, autocommit=True) as server:
            _drop(server, schema)
            for role in (owner, app):
                server.execute(sql.SQL("DROP OWNED BY {}").format(role))
                server.execute(sql.SQL("DROP ROLE {}").format(role))


def _drop(server: psycopg.Connection[tuple[Any, ...]], schema: sql.Identifier) -> None:
    """Applications that still run may stand in the way of it, and are not the ones that give way."""
    for _ in range(_TRIES):
        try:
            server.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(schema))
        except psycopg.errors.DeadlockDetected:
            time.sleep(0.5)
        else:
            return
