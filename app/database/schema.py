"""Brings the database's schema to head, and tells whether it is there."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from app.config import Settings
from app.database.engine import unavailable
from app.database.owner import owner_engine
from app.models import Base

Answer = TypeVar("Answer")

_log = structlog.get_logger()

# Our tables, and each of their partitions: a policy binds who asks by the name of the table.
_OURS = """
    WITH RECURSIVE ours AS (
        SELECT oid, relowner FROM pg_class
        WHERE oid IN (SELECT to_regclass(name) FROM unnest(CAST(:tables AS text[])) AS name)
        UNION
        SELECT partition.oid, partition.relowner
        FROM ours JOIN pg_inherits ON inhparent = ours.oid JOIN pg_class AS partition ON partition.oid = inhrelid
    )
"""
# Whom row level security does not bind, or who can become somebody whom it does not bind: superusers, BYPASSRLS, and
# the tables' owner. And a table without it binds nobody.
_SEES_EVERYTHING = text(f"""
    {_OURS}
    SELECT EXISTS (
        SELECT FROM pg_roles
        WHERE (rolsuper OR rolbypassrls OR oid IN (SELECT relowner FROM ours))
            AND pg_has_role(session_user, oid, 'MEMBER')
    ) AS by_role, (SELECT min(oid::regclass::text) FROM ours WHERE NOT row_security_active(oid)) AS open_table
""")
_WAY_OUT = "or set LARIBA_ALLOW_RLS_BYPASS=on"
_UNBOUND_ROLE = (
    "the role in LARIBA_DATABASE_URL is a superuser, has BYPASSRLS, or owns the tables (or is a member of such a role),"
    f" so row level security does not keep workspaces apart: use a role of its own (docs/operations.md), {_WAY_OUT}"
)
_OPEN_TABLE = (
    "the table {} has no row level security, so it does not keep workspaces apart: run `flask --app wsgi migrate`,"
    f" which puts policies on every partition (docs/operations.md), {_WAY_OUT}"
)
# What opens by a setting, opens for one role: anybody can SET. Migrations make these policies for PUBLIC, because they
# do not know the role.
_POLICIES_FOR_OTHERS = text("""
    SELECT polrelid::regclass::text AS relation, polname FROM pg_policy JOIN pg_class ON pg_class.oid = polrelid
    WHERE polname IN ('within_workspace', 'everywhere') AND relnamespace = current_schema()::text::regnamespace
        AND polroles <> ARRAY(SELECT oid FROM pg_roles WHERE rolname = :role)
""")
# One that was hung in by hand, or stood there before.
_OPEN_PARTITIONS = text("""
    SELECT wall_event_partition(inhrelid) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = to_regclass('events') AND NOT relrowsecurity
""")
# No name of an encoding: in that of the database a driver might not be able to read it.
_LOCALE = text("""
    SELECT getdatabaseencoding() = 'UTF8' AS is_utf8, datcollversion AS recorded,
        pg_database_collation_actual_version(oid) AS actual
    FROM pg_database WHERE datname = current_database()
""")
_NOT_UTF8 = (
    "the database in LARIBA_DATABASE_URL is not in the encoding UTF8, so it cannot hold every character of an event:"
    " make it anew with ENCODING 'UTF8' (deploy/roles.sql)"
)
# Any number that nothing else locks.
_TURN = 0x6C617269_62610001
_TURN_PAUSE_SECONDS = 0.2
_MIGRATIONS = Path(__file__).parents[2] / "migrations"
_LOCK_TIMEOUT = text("SET LOCAL lock_timeout = '4s'")  # as migrations have: who waits makes all behind it wait
_RELATIONS = text("SELECT relname FROM pg_class WHERE relnamespace = current_schema()::text::regnamespace")
# Nobody may DELETE events or change the trail; the worker purges and folds, the API changes control rows.
_GRANTS = {
    "SELECT, INSERT, UPDATE": (
        "workspaces",
        "projects",
        "environments",
        "sources",
        "source_keys",
        "management_tokens",
        "maintenance_tasks",
    ),
    "SELECT, INSERT": ("events", "audit_entries"),
    "SELECT, INSERT, UPDATE, DELETE": (
        "event_ledger",
        "idempotency_records",
        "usage_outbox",
        "usage_hours",
        "management_requests",
    ),
    "SELECT": ("alembic_version", "readable_events"),
}


class EncodingError(Exception):
    """The database cannot hold every character; the message is one line that says what to do."""


class WallMissingError(Exception):
    """The app's role sees all workspaces at once; the message is one line that says what to do."""


class SchemaBehindError(Exception):
    """The database's schema is older than this code; the message is one line that says what to run."""


def migrate(settings: Settings, revision: str = "head") -> None:
    """Take the schema to `revision` as the owner, then give the app's role what it needs, and policies to it alone.

    Safe to run twice and concurrently: one deploy at a time has its turn. Raises SQLAlchemy's errors.
    """
    with _turn(settings) as engine:
        with engine.connect() as connection:
            command.upgrade(_configuration(connection), revision)
        with engine.begin() as connection:
            connection.execute(_LOCK_TIMEOUT)
            app_role = str(make_url(settings.database_url).username)
            _grant(connection, app_role)
            _wall(connection, app_role)


def downgrade(settings: Settings, revision: str) -> None:
    """Take the schema back to `revision` ("base" is an empty database) as the owner."""
    with _turn(settings) as engine, engine.connect() as connection:
        command.downgrade(_configuration(connection), revision)


@contextmanager
def _turn(settings: Settings) -> Iterator[Engine]:
    """The owner's engine, while nobody else migrates; waits as long as the one before takes.

    The grants need the turn as much as the migrations: two at once on one table end in "tuple concurrently updated".
    """
    engine = owner_engine(settings.admin_database_url)
    try:
        # The lock belongs to the session; a transaction left open beside it would only hold back vacuum.
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as turn:
            # Asked again and again: who waits in a statement holds a snapshot, for whose end CREATE INDEX CONCURRENTLY
            # of the deploy before would wait in turn.
            while not turn.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _TURN}).scalar_one():
                time.sleep(_TURN_PAUSE_SECONDS)
            yield engine
    finally:
        engine.dispose()


def behind(connection: Connection) -> str | None:
    """What is missing, in one line, if the schema is behind this code; None if it is at head or ahead of it.

    Ahead is allowed: in a rolling upgrade the schema goes first and the old code still runs.
    """
    current = MigrationContext.configure(connection).get_current_revision()
    scripts = ScriptDirectory.from_config(_configuration())
    head = scripts.get_current_head()
    if current == head:
        return None
    if current is not None:
        try:
            scripts.get_revision(current)
        except CommandError:
            return None
    return f"the schema is at {current or 'nothing'} and this code needs {head}: run `flask --app wsgi migrate`"


def require_utf8(engine: Engine) -> None:
    """Raise EncodingError if the database is in another encoding.

    Says in the log if the C library orders text otherwise than when the database was made. Nothing of ours relies on it
    (migrations/versions/0016_code_points.py), but what others keep in the database may.
    """
    found = _ask(engine, lambda connection: connection.execute(_LOCALE).one())
    if found is None:
        return
    if not found.is_utf8:
        raise EncodingError(_NOT_UTF8)
    if found.recorded != found.actual:
        _log.warning("database_collation_changed", recorded=found.recorded, actual=found.actual)


def require_head(engine: Engine) -> None:
    """Raise SchemaBehindError if the schema is behind."""
    if missing := _ask(engine, behind):
        raise SchemaBehindError(missing)


def require_walls(engine: Engine) -> None:
    """Raise WallMissingError if row level security does not bind the engine's role."""
    if missing := _ask(engine, wall_missing):
        raise WallMissingError(missing)


def _ask(engine: Engine, question: Callable[[Connection], Answer]) -> Answer | None:
    """The answer; None if the database is away, which is no reason not to start."""
    try:
        with engine.connect() as connection:
            return question(connection)
    except SQLAlchemyError as error:
        if unavailable(error) is None:
            raise
        return None
    finally:
        engine.dispose()


def wall_missing(connection: Connection) -> str | None:
    """Why row level security does not bind the connection's role, in one line; None if it does."""
    found = connection.execute(_SEES_EVERYTHING, {"tables": list(Base.metadata.tables)}).one()
    if found.by_role:
        return _UNBOUND_ROLE
    return _OPEN_TABLE.format(found.open_table) if found.open_table else None


def _configuration(connection: Connection | None = None) -> Config:
    configuration = Config()
    configuration.attributes["connection"] = connection
    configuration.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    configuration.set_main_option("path_separator", "os")
    return configuration


def _wall(connection: Connection, app_role: str) -> None:
    """Policies that open by a setting are the app's role's alone, and stand on every partition."""
    quote = connection.dialect.identifier_preparer.quote
    for relation, policy in connection.execute(_POLICIES_FOR_OTHERS, {"role": app_role}).all():
        connection.execute(text(f"ALTER POLICY {quote(policy)} ON {relation} TO {quote(app_role)}"))
    if connection.execute(text("SELECT to_regprocedure('wall_event_partition(regclass)') IS NOT NULL")).scalar_one():
        connection.execute(_OPEN_PARTITIONS)


def _grant(connection: Connection, app_role: str) -> None:
    owner = connection.execute(text("SELECT current_user")).scalar_one()
    if app_role == owner:
        return
    role = connection.dialect.identifier_preparer.quote(app_role)
    existing = set(connection.execute(_RELATIONS).scalars())
    for privileges, tables in _GRANTS.items():
        for table in existing.intersection(tables):
            connection.execute(text(f"GRANT {privileges} ON {table} TO {role}"))
    connection.execute(text(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {role}"))
