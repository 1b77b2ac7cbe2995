"""Brings the database's schema to head, and says whether it is there."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, text

from app.config import Settings
from app.database.cell import bind_cell, number_rows
from app.database.citus.distribute import distribute, is_cluster, share_row_ids
from app.database.conninfo import conninfo_of
from app.database.engine import ask
from app.database.owner import owner_engine
from app.database.row_security import bind_policies

# Any number that nothing else locks.
_LOCK = 0x6C617269_62610001
_LOCK_PAUSE_SECONDS = 0.2
_MIGRATIONS = Path(__file__).parents[2] / "migrations"
# Before the first release the migrations began anew, with other tables under the same numbers: a schema at the earlier
# 0003 must not be taken for one at the third migration of today, a003.
_DISCARDED = re.compile(r"\d{4}")
_LOCK_TIMEOUT = text("SET LOCAL lock_timeout = '4s'")  # as in migrations/env.py
_RELATIONS = text("SELECT relname FROM pg_class WHERE relnamespace = current_schema()::text::regnamespace")
_MAY_USE_SCHEMA = text("SELECT has_schema_privilege(:role, current_schema(), 'USAGE')")
# No program may DELETE events or change the audit log; the worker purges and folds, the API changes control rows.
_GRANTS = {
    "SELECT, INSERT, UPDATE": (
        "read_hours",
        "workspaces",
        "projects",
        "environments",
        "sources",
        "source_keys",
        "management_tokens",
        "maintenance_tasks",
    ),
    "SELECT, INSERT": ("events", "event_segments", "audit_entries"),
    "SELECT, INSERT, UPDATE, DELETE": (
        "event_ledger",
        "idempotency_records",
        "usage_outbox",
        "usage_hours",
        "event_hours",
        "read_flushes",
        "management_requests",
        "consumers",
        "exports",
        "replays",
    ),
    "SELECT": ("alembic_version", "readable_events", "readable_segments", "cells"),
    "USAGE": ("SEQUENCE event_positions",),
}


class SchemaBehindError(Exception):
    """The database's schema is not one that this code can use; the message is one line that says what to do."""


class UnknownSchemaError(Exception):
    """The database's schema is at a revision that this code cannot migrate; the message says what to do."""


def migrate(settings: Settings, revision: str = "head") -> None:
    """Take the schema to `revision` as the owner, then grant the app's role what it needs, and the policies.

    Safe to run twice and concurrently: an advisory lock lets one run at a time. Raises SQLAlchemy's errors, and
    UnknownSchemaError, and ClusterError.
    """
    with _locked(settings) as engine:
        with engine.connect() as connection:
            has_nodes = is_cluster(connection, settings.cell)
            current = MigrationContext.configure(connection).get_current_revision()
            if not _is_known(current):
                raise UnknownSchemaError(
                    _discarded(current)
                    or f"the schema is at {current}, which a later version of this code made:"
                    " migrate with that version or one after it"
                )
            command.upgrade(_configuration(connection), revision)
        with engine.begin() as connection:
            connection.execute(_LOCK_TIMEOUT)
            app_role = _app_role(settings)
            _grant(connection, app_role)
            bind_policies(connection, app_role)
            bind_cell(connection, settings.cell)
            if has_nodes:
                distribute(connection)
                _grant(connection, app_role)  # the functions that it has made
            else:
                number_rows(connection, settings.cell)
        if has_nodes:
            with engine.begin() as connection:
                share_row_ids(connection, settings.cell)


def downgrade(settings: Settings, revision: str) -> None:
    """Take the schema back to `revision` ("base" is an empty database) as the owner, with what the app's role needs."""
    with _locked(settings) as engine:
        with engine.connect() as connection:
            command.downgrade(_configuration(connection), revision)
        with engine.begin() as connection:
            connection.execute(_LOCK_TIMEOUT)
            _grant(connection, _app_role(settings))


@contextmanager
def _locked(settings: Settings) -> Iterator[Engine]:
    """The owner's engine, while no other process migrates; waits for the one before, however long it takes.

    The grants need the lock as much as the migrations: two at once on one table end in "tuple concurrently updated".
    """
    engine = owner_engine(settings.admin_database_url)
    try:
        # The lock belongs to the session; a transaction left open beside it would only hold back vacuum.
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as holder:
            # Polled: a statement that waits holds a snapshot, for whose end CREATE INDEX CONCURRENTLY of the deploy
            # before would wait as well.
            while not holder.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK}).scalar_one():
                time.sleep(_LOCK_PAUSE_SECONDS)
            yield engine
    finally:
        engine.dispose()


def behind(connection: Connection) -> str | None:
    """What is missing, in one line, if the schema is behind this code; None if it is at head or ahead of it.

    Ahead is allowed: in a rolling upgrade the schema goes first and the old code still runs.
    """
    current = MigrationContext.configure(connection).get_current_revision()
    head = ScriptDirectory.from_config(_configuration()).get_current_head()
    if current == head:
        return None
    if not _is_known(current):
        return _discarded(current)
    return f"the schema is at {current or 'nothing'} and this code needs {head}: run `flask --app wsgi migrate`"


def _discarded(revision: str | None) -> str | None:
    """What to do, in one line, if `revision` is one of those that checkouts before the first release had."""
    if revision is None or not _DISCARDED.fullmatch(revision):
        return None
    return (
        f"the schema is at {revision}, which a checkout before the first release made:"
        " begin with a new database (CHANGELOG.md)"
    )


def _is_known(revision: str | None) -> bool:
    try:
        ScriptDirectory.from_config(_configuration()).get_revision(revision or "base")
    except CommandError:
        return False
    return True


def require_head(engine: Engine) -> None:
    """Raise SchemaBehindError if the schema is behind. Passes if the database is away."""
    if missing := ask(engine, behind):
        raise SchemaBehindError(missing)


def _configuration(connection: Connection | None = None) -> Config:
    configuration = Config()
    configuration.attributes["connection"] = connection
    configuration.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    configuration.set_main_option("path_separator", "os")
    return configuration


def _app_role(settings: Settings) -> str:
    return str(conninfo_of(settings.database_url)["user"])


def _grant(connection: Connection, app_role: str) -> None:
    if app_role == connection.execute(text("SELECT current_user")).scalar_one():
        return
    quote = connection.dialect.identifier_preparer.quote
    role, schema = quote(app_role), quote(connection.execute(text("SELECT current_schema()")).scalar_one())
    if not connection.execute(_MAY_USE_SCHEMA, {"role": app_role}).scalar_one():
        connection.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO {role}"))
    existing = set(connection.execute(_RELATIONS).scalars())
    for privileges, tables in _GRANTS.items():
        for table in tables:
            if table.split()[-1] in existing:
                connection.execute(text(f"GRANT {privileges} ON {table} TO {role}"))
    connection.execute(text(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {role}"))
