"""Databases of the tests: a fresh one, a copy, and the end of a test's use of one."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
from psycopg import sql
from sqlalchemy import event

from app.config import Settings
from app.database.conninfo import conninfo_of
from app.database.engine import Database
from tests.support.servers import database_url

SECRET_KEY = "a secret for tests only and long enough to be taken"


class fresh_database:  # noqa: N801 - reads as a verb at its use
    """A database with its two roles that lives as long as the block."""

    def __init__(self, server_url: str) -> None:
        self._server_url = server_url
        self._name = f"lariba_test_{secrets.token_hex(4)}"

    def __enter__(self) -> Settings:
        name = self._name
        with psycopg.connect(self._server_url, autocommit=True) as server:
            for role in (f"{name}_owner", f"{name}_app"):
                server.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'test'").format(sql.Identifier(role)))
            server.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(f"{name}_owner"))
            )
        return Settings(
            database_url=database_url(self._server_url, f"{name}_app", name),
            admin_database_url=database_url(self._server_url, f"{name}_owner", name),
            broker_url=os.environ.get("TEST_BROKER_URL", "memory://"),
            secret_key=(SECRET_KEY,),
            log_level="WARNING",
            database_pool_size=40,
            # Tests ask as fast as they can; those of the limits set their own.
            management_token_requests_per_second=None,
            management_workspace_requests_per_second=None,
        )

    def __exit__(self, *_: object) -> None:
        name = self._name
        with psycopg.connect(self._server_url, autocommit=True) as server:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
            for role in (f"{name}_owner", f"{name}_app"):
                server.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@contextmanager
def copied_database(server_url: str, migrated: Settings) -> Iterator[Settings]:
    """A copy of a database without connections, with the same roles, that lives as long as the block."""
    app, owner = (conninfo_of(url) for url in (migrated.database_url, migrated.admin_database_url))
    name = f"lariba_test_{secrets.token_hex(4)}"
    copy, original, owner_role = (sql.Identifier(each) for each in (name, owner["dbname"], owner["user"]))
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(copy, original, owner_role))
    try:
        yield replace(
            migrated,
            database_url=database_url(server_url, app["user"], name),
            admin_database_url=database_url(server_url, owner["user"], name),
        )
    finally:
        with psycopg.connect(server_url, autocommit=True) as server:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(copy))


def close(database: Database) -> None:
    """Close its connections; one that a thread of the app has out (rate limits, refusals) closes when it comes back.

    The engine's own dispose() leaves that one to the garbage collector, and a later test to hear of it.
    """
    event.listen(database.engine, "checkin", lambda _, entry: entry.invalidate())
    database.engine.dispose()
