"""app/database/sql/*.sql are what the migrated database runs; and nothing in it depends on the name of its schema."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from app.config import Settings
from app.context import EXTENSION
from app.database.conninfo import conninfo_of
from app.database.migrate import downgrade, migrate
from app.factory import create_app
from tests.support.databases import close, fresh_database
from tests.support.people import events_of, make_tenant
from tests.support.sending import send
from tests.support.servers import database_url

# Signatures that code of the deploy before still calls; the next one's migration drops them.
_OLDER: frozenset[str] = frozenset()
# As migrations/env.py sets it.
_SEARCH_PATH = "SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true)"
_FUNCTIONS = (
    "SELECT oid::regprocedure::text, pg_get_functiondef(oid) FROM pg_proc"
    " WHERE pronamespace = current_schema()::text::regnamespace"
)


def _functions(connection: psycopg.Connection) -> dict[str, str]:
    return dict(connection.execute(_FUNCTIONS).fetchall())


@pytest.fixture(name="owner")
def _owner(settings: Settings) -> Iterator[psycopg.Connection]:
    """The tables' owner, in a transaction that is rolled back."""
    with psycopg.connect(settings.admin_database_url) as owner:
        owner.execute(_SEARCH_PATH)
        yield owner
        owner.rollback()


def test_every_sql_file_is_what_the_migrated_database_has(owner: psycopg.Connection, checkout: Path) -> None:
    """A change of a file needs a migration with a frozen copy of it (docs/decisions/0022)."""
    migrated = _functions(owner)
    owner.execute("DROP FUNCTION " + ", ".join(migrated))
    made: dict[str, str] = {}
    differing = set()
    for path in sorted((checkout / "app/database/sql").glob("*.sql")):
        owner.execute(path.read_text())
        now = _functions(owner)
        differing |= {path.name for name in now.keys() - made.keys() if now[name] != migrated.get(name)}
        made = now

    assert differing == set()
    assert migrated.keys() - made.keys() == _OLDER


def test_migrations_go_down_and_up_beside_a_second_function_of_every_name(server_url: str) -> None:
    """As there is for a deploy when a signature changes."""
    with fresh_database(server_url) as settings:
        migrate(settings)
        with psycopg.connect(settings.admin_database_url) as owner:
            ours = _functions(owner)
            for name in {function.split("(")[0] for function in ours}:
                owner.execute(f"CREATE FUNCTION {name}(point) RETURNS integer LANGUAGE sql AS 'SELECT 1'")
            both = _functions(owner)

        downgrade(settings, "a005")
        migrate(settings)

        with psycopg.connect(settings.admin_database_url) as owner:
            assert _functions(owner) == both
            assert len(both) == 2 * len(ours)


def test_no_function_may_be_called_by_every_role(owner: psycopg.Connection) -> None:
    for function in _functions(owner):
        called = owner.execute("SELECT has_function_privilege('pg_monitor', %s, 'EXECUTE')", [function]).fetchone()
        assert called == (False,), function


def test_judge_items_is_written_into_the_statement_that_calls_it(owner: psycopg.Connection) -> None:
    """As are the functions that it calls: a plan that scans a function would judge one call after the other."""
    plan = owner.execute("EXPLAIN SELECT * FROM judge_items('[]', '[]', now(), NULL) WHERE n = 1").fetchall()

    scanned = {line.split(" on ")[1].split()[0] for (line,) in plan if "Function Scan" in line}
    assert scanned == {"jsonb_to_recordset"}
    assert [line for (line,) in plan if "CTE caller" in line]


def test_a_database_whose_tables_lie_in_another_schema_works_the_same(server_url: str) -> None:
    with fresh_database(server_url) as settings:
        database, owner_role = (str(conninfo_of(settings.admin_database_url)[name]) for name in ("dbname", "user"))
        with psycopg.connect(database_url(server_url, "postgres", database), autocommit=True) as server:
            server.execute(f"CREATE SCHEMA cell_7 AUTHORIZATION {owner_role}")
            server.execute(f"ALTER DATABASE {database} SET search_path = cell_7")
        migrate(settings)

        app = create_app(settings)
        context = app.extensions[EXTENSION]
        tenant = make_tenant(context)
        assert send(app.test_client(), tenant).status_code == 201
        assert app.test_client().get("/readyz").status_code == 200
        assert len(events_of(context, tenant)) == 1
        close(context.database)
        with psycopg.connect(settings.admin_database_url) as owner:
            left = owner.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
                " UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
            ).fetchall()
            owner.execute("SELECT admit_report_role(session_user, %s)", [tenant.workspace_id])
        assert left == []
