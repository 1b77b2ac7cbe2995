"""Row security: PostgreSQL itself keeps workspaces apart, whatever statement the app's role sends."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
from flask import Flask
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import (
    ForeignKeyViolation,
    InsufficientPrivilege,
    UndefinedColumn,
    UniqueViolation,
)
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.config import Settings
from app.context import EXTENSION, Context
from app.database.engine import Database, TenantScope
from app.errors import InvalidSourceKey, StorageUnavailable
from app.factory import create_app
from app.maintenance.usage import fold_usage
from app.models import Base
from tests.support.databases import close
from tests.support.live import environment_of
from tests.support.operating import api_of
from tests.support.people import Tenant, make_tenant
from tests.support.replaying import replay_of
from tests.support.sending import send
from tests.support.servers import database_url

# What the app's role may read without row level security, each with its reason.
_OPEN = {"alembic_version": "one row, the schema's revision"}
# No policy can stand on a view. It carries the condition itself, and the tests below ask it.
_VIEWS = {"readable_events", "readable_segments"}
# Closed to a transaction that has named a workspace.
_OF_NO_WORKSPACE = {
    "maintenance_tasks": "(name) VALUES ('any')",
    "read_flushes": "VALUES (gen_random_uuid(), gen_random_uuid(), now())",
}
"""With a row for each."""
# Every transaction may read it, and none of the app's role may write it (tests/cells).
_FOR_ALL = {"cells"}
# The app's role has no right to it: functions of the owner read it, and the worker writes it as the owner.
_OF_THE_OWNER = {"event_days"}
TABLES = sorted(set(Base.metadata.tables) - set(_OF_NO_WORKSPACE) - _FOR_ALL - _OF_THE_OWNER)

Connect = Callable[[Tenant | None], psycopg.Connection]


@pytest.fixture(scope="module", name="full")
def _full(app: Flask, context: Context) -> tuple[Tenant, Tenant]:
    """Both have a row in every table at least; no test changes one."""
    alice, charlie = make_tenant(context), make_tenant(context)
    client = app.test_client()
    for tenant in (alice, charlie):
        assert send(client, tenant, idempotency_key="1").status_code == 201
        body, headers = {"name": f"of {tenant.workspace_id}"}, {"Idempotency-Key": "1"}
        assert api_of(app, tenant).post("/v1/projects", body, headers=headers).status_code == 201
        consumer = {"project_id": tenant.project_id}
        assert api_of(app, tenant).call("PUT", "/v1/consumers/billing", consumer).status_code == 201
        assert api_of(app, tenant).post("/v1/exports", {"project_id": tenant.project_id}).status_code == 201
        assert replay_of(api_of(app, tenant), tenant)
    fold_usage(context.database)
    for tenant in (alice, charlie):
        with context.database.transaction(TenantScope.ALL) as session:
            build = text("SELECT build_event_segment(:project, 1)")
            assert session.execute(build, {"project": tenant.project_row}).scalar_one() == 1
        assert send(client, tenant, idempotency_key="2").status_code == 201
        assert api_of(app, tenant).get("/v1/events", project_id=tenant.project_id).status_code == 200
    context.reads.flush()
    return alice, charlie


@pytest.fixture(name="connect")
def _connect(settings: Settings) -> Iterator[Connect]:
    """The app's role on a connection of its own, which names a workspace or none."""
    opened: list[psycopg.Connection] = []

    def connect(tenant: Tenant | None) -> psycopg.Connection:
        connection = psycopg.connect(settings.database_url, autocommit=True)
        opened.append(connection)
        if tenant is not None:
            connection.execute("SELECT set_config('lariba.workspace', %s, false)", [str(tenant.workspace_row)])
        return connection

    yield connect
    for connection in opened:
        connection.close()


@dataclass(frozen=True, slots=True)
class _Rows:
    """Whole rows, each as JSON."""

    context: Context

    def of(self, table: str, tenant: Tenant) -> set[str]:
        column = "id" if table == "workspaces" else "workspace_id"
        with self.context.database.transaction(TenantScope.ALL) as session:
            statement = text(f"SELECT to_jsonb(t)::text FROM {table} t WHERE t.{column} = :workspace")
            return set(session.scalars(statement, {"workspace": tenant.workspace_row}))


def _seen(connection: psycopg.Connection, table: str) -> set[str]:
    return {row for (row,) in connection.execute(f"SELECT to_jsonb(t)::text FROM {table} t").fetchall()}


def test_every_table_has_row_level_security_and_a_policy(settings: Settings) -> None:
    """Also one that a later migration makes."""
    with psycopg.connect(settings.admin_database_url) as owner:
        readable = owner.execute(
            "SELECT relname, relrowsecurity, EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid) FROM pg_class c"
            " WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND relnamespace = 'public'::regnamespace"
            " AND has_table_privilege(%s, c.oid, 'SELECT, INSERT, UPDATE, DELETE')",
            [conninfo_to_dict(settings.database_url)["user"]],
        ).fetchall()
    assert {name for name, _, _ in readable} == {*TABLES, *_OF_NO_WORKSPACE, *_FOR_ALL, *_OPEN, *_VIEWS}
    assert {name for name, *is_secured in readable if not all(is_secured)} == {*_OPEN, *_VIEWS}


@pytest.mark.parametrize("table", TABLES)
class TestEveryTable:
    def test_without_a_workspace_shows_nothing(
        self, table: str, context: Context, full: tuple[Tenant, Tenant], connect: Connect
    ) -> None:
        assert _Rows(context).of(table, full[0])

        assert _seen(connect(None), table) == set()

    def test_within_a_workspace_shows_its_rows_and_no_others(
        self, table: str, context: Context, full: tuple[Tenant, Tenant], connect: Connect
    ) -> None:
        alice, charlie = full

        assert _seen(connect(alice), table) == _Rows(context).of(table, alice)
        assert _seen(connect(charlie), table) == _Rows(context).of(table, charlie)

    def test_takes_no_row_of_anothers(
        self, table: str, context: Context, full: tuple[Tenant, Tenant], connect: Connect
    ) -> None:
        alice, charlie = full
        # A whole and valid row, which policies judge before any unique key does.
        names = ", ".join(column.name for column in Base.metadata.tables[table].columns if column.computed is None)
        copy = f"INSERT INTO {table} ({names}) SELECT {names} FROM jsonb_populate_record(NULL::{table}, %s)"
        row = _Rows(context).of(table, charlie).pop()
        for tenant in (None, alice):
            with pytest.raises(InsufficientPrivilege, match="row-level security"):
                connect(tenant).execute(copy, [row])

    def test_lets_no_row_of_anothers_be_changed_or_removed(
        self, table: str, context: Context, full: tuple[Tenant, Tenant], connect: Connect
    ) -> None:
        alice, charlie = full
        before = _Rows(context).of(table, charlie)
        column = next(iter(Base.metadata.tables[table].columns)).name
        own = len(_Rows(context).of(table, alice))

        for tenant, rows in ((None, 0), (alice, own)):
            connection = connect(tenant)
            for statement in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}"):
                try:
                    with connection.transaction(force_rollback=True):
                        assert connection.execute(statement).rowcount in (0, rows), statement
                except (InsufficientPrivilege, ForeignKeyViolation):
                    continue  # forbidden whatever the workspace

        assert _Rows(context).of(table, charlie) == before

    def test_shows_nothing_by_a_default_of_the_role_or_the_server(
        self, table: str, settings: Settings, full: tuple[Tenant, Tenant]
    ) -> None:
        """A transaction that names no workspace sees none, also where one was set for the whole role."""
        joint = "&" if "?" in settings.database_url else "?"
        url = f"{settings.database_url}{joint}options=-c%20lariba.all_workspaces%3Don%20-c%20lariba.workspace%3D1"
        database = Database(url, pool_size=1)
        with database.transaction(TenantScope.NONE) as session:
            seen = session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
        close(database)

        assert seen == 0


@pytest.mark.parametrize("table", sorted(_OF_NO_WORKSPACE))
def test_what_belongs_to_no_workspace_is_shown_to_none(
    table: str, alice: Tenant, connect: Connect, context: Context
) -> None:
    with context.database.transaction(TenantScope.ALL) as session:
        session.execute(text(f"INSERT INTO {table} {_OF_NO_WORKSPACE[table]} ON CONFLICT DO NOTHING"))
        assert session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() > 0

    for tenant in (None, alice):
        assert _seen(connect(tenant), table) == set()
        with pytest.raises(InsufficientPrivilege, match="row-level security"):
            connect(tenant).execute(f"INSERT INTO {table} {_OF_NO_WORKSPACE[table]}")


class TestTheViewThatEventsAreReadThrough:
    def test_without_a_workspace_shows_nothing(self, full: tuple[Tenant, Tenant], connect: Connect) -> None:
        assert _seen(connect(None), "readable_events") == set()

    def test_within_a_workspace_shows_its_events_and_no_others(
        self, context: Context, full: tuple[Tenant, Tenant], connect: Connect
    ) -> None:
        for tenant in full:
            assert _seen(connect(tenant), "readable_events") == _Rows(context).of("events", tenant)

    def test_shows_no_more_to_who_sees_everything(self, full: tuple[Tenant, Tenant], connect: Connect) -> None:
        connection = connect(None)
        connection.execute("SET lariba.all_workspaces = 'on'")

        assert _seen(connection, "readable_events") == set()

    @pytest.mark.parametrize(
        "statement",
        ["INSERT INTO readable_events DEFAULT VALUES", "DELETE FROM readable_events", "UPDATE {} SET x = 1"],
    )
    def test_takes_nothing(self, alice: Tenant, connect: Connect, statement: str) -> None:
        with pytest.raises((InsufficientPrivilege, UndefinedColumn)):
            connect(alice).execute(statement.replace("{}", "readable_events").replace("x =", "severity = 'info', x ="))


class TestWaysAround:
    def test_a_row_cannot_be_moved_into_another_workspace(self, full: tuple[Tenant, Tenant], connect: Connect) -> None:
        alice, charlie = full
        for table in ("projects", "management_tokens"):
            with pytest.raises(InsufficientPrivilege, match="row-level security"):
                connect(alice).execute(f"UPDATE {table} SET workspace_id = %s", [charlie.workspace_row])

    def test_on_conflict_does_not_reach_a_strangers_row(self, full: tuple[Tenant, Tenant], connect: Connect) -> None:
        alice, charlie = full
        taken = "INSERT INTO projects (id, public_id, workspace_id, name) VALUES (%s, 'prj_x', %s, 'mine') ON CONFLICT"
        parameters = [charlie.project_row, alice.workspace_row]

        with pytest.raises(InsufficientPrivilege, match="row-level security"):
            connect(alice).execute(f"{taken} (id) DO UPDATE SET name = 'mine'", parameters)
        assert connect(alice).execute(f"{taken} (id) DO NOTHING RETURNING name", parameters).fetchall() == []

    def test_an_error_shows_no_value_of_a_strangers_row(self, full: tuple[Tenant, Tenant], connect: Connect) -> None:
        """That a public id is taken shows to a client that guesses it; the row's values do not."""
        alice, charlie = full
        with pytest.raises(UniqueViolation) as taken:
            connect(alice).execute(
                "INSERT INTO projects (public_id, workspace_id, name) VALUES (%s, %s, 'mine')",
                [charlie.project_id, alice.workspace_row],
            )
        assert taken.value.diag.message_detail is None

    def test_no_row_points_into_another_workspace(self, full: tuple[Tenant, Tenant], connect: Connect) -> None:
        alice, charlie = full
        mine = connect(alice)
        with pytest.raises(ForeignKeyViolation):
            mine.execute(
                "INSERT INTO environments (public_id, workspace_id, project_id, name) VALUES ('env_x', %s, %s, 'x')",
                [alice.workspace_row, charlie.project_row],
            )
        with pytest.raises(ForeignKeyViolation):
            mine.execute("UPDATE source_keys SET replaces_id = %s WHERE id = %s", [charlie.key_row, alice.key_row])

    def test_a_cheap_function_does_not_see_a_row_before_the_policy_does(
        self, full: tuple[Tenant, Tenant], connect: Connect
    ) -> None:
        alice, charlie = full
        mine = connect(alice)
        shown: list[str] = []
        mine.add_notice_handler(lambda notice: shown.append(notice.message_primary or ""))
        mine.execute(
            "CREATE FUNCTION pg_temp.peek(seen text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001"
            " AS $$ BEGIN RAISE NOTICE '%', seen; RETURN true; END $$"
        )

        mine.execute("SELECT FROM projects WHERE pg_temp.peek(public_id)")

        assert alice.project_id in shown
        assert charlie.project_id not in shown

    def test_the_planners_statistics_are_not_shown(
        self, settings: Settings, full: tuple[Tenant, Tenant], connect: Connect
    ) -> None:
        with psycopg.connect(settings.admin_database_url, autocommit=True) as owner:
            owner.execute("ANALYZE projects")
            assert owner.execute("SELECT 1 FROM pg_stats WHERE tablename = 'projects'").fetchall()

        assert connect(full[0]).execute("SELECT 1 FROM pg_stats WHERE tablename = 'projects'").fetchall() == []

    @pytest.mark.parametrize(
        "statement",
        [
            "SET ROLE {owner}",
            "ALTER TABLE projects DISABLE ROW LEVEL SECURITY",
            "CREATE POLICY open ON projects USING (true)",
            "SELECT * FROM events_default",
            "SET row_security = off; SELECT * FROM projects",
            "COPY (SELECT 1) TO PROGRAM 'true'",
        ],
    )
    def test_it_cannot_be_switched_off(
        self, settings: Settings, full: tuple[Tenant, Tenant], connect: Connect, statement: str
    ) -> None:
        owner = str(conninfo_to_dict(settings.admin_database_url)["user"])
        with pytest.raises(InsufficientPrivilege):
            connect(full[0]).execute(sql.SQL(statement).format(owner=sql.Identifier(owner)))

    def test_judge_callers_sees_as_little_as_the_role_that_calls_it(
        self, full: tuple[Tenant, Tenant], connect: Connect
    ) -> None:
        """It is not SECURITY DEFINER: only store_events is, which writes and shows no row."""
        alice, charlie = full
        judge = "SELECT refusal, workspace_id FROM judge_callers(jsonb_build_array(jsonb_build_object("
        judge += "'caller', 0, 'key_row', %s::bigint, 'key_id', %s::text)), now(), NULL)"

        own = connect(alice).execute(judge, [alice.key_row, alice.key_id]).fetchall()
        strange = connect(alice).execute(judge, [charlie.key_row, charlie.key_id]).fetchall()

        assert own == [(None, alice.workspace_row)]
        assert strange == [(InvalidSourceKey.code, None)]

    def test_what_runs_as_the_owner_is_known_by_name_and_keeps_to_its_schema(self, settings: Settings) -> None:
        with psycopg.connect(settings.admin_database_url) as owner:
            found = owner.execute(
                "SELECT proname, proconfig::text FROM pg_proc"
                " WHERE prosecdef AND pronamespace = 'public'::regnamespace ORDER BY 1"
            ).fetchall()
        assert [name for name, _ in found] == [
            "build_event_segment",
            "event_days_after",
            "event_horizon",
            "is_origin_allowed",
            "make_event_partitions",
            "store_events",
        ]
        assert all("search_path=public, pg_temp" in configured for _, configured in found)


class TestPool:
    """One connection for all: nothing of one transaction's scope is left for the next."""

    @pytest.fixture(name="database")
    def _database(self, settings: Settings) -> Iterator[Database]:
        database = Database(settings.database_url, pool_size=1)
        yield database
        close(database)

    def _sees(self, database: Database, scope: int | TenantScope, tenants: tuple[Tenant, Tenant]) -> list[bool]:
        with database.transaction(scope) as session:
            found = set(session.scalars(text("SELECT public_id FROM projects")))
        return [tenant.project_id in found for tenant in tenants]

    def test_interleaved_workspaces(self, database: Database, alice: Tenant, charlie: Tenant) -> None:
        both = (alice, charlie)
        for _ in range(3):
            assert self._sees(database, alice.workspace_row, both) == [True, False]
            assert self._sees(database, TenantScope.NONE, both) == [False, False]
            assert self._sees(database, charlie.workspace_row, both) == [False, True]
            assert self._sees(database, TenantScope.ALL, both) == [True, True]
            assert self._sees(database, TenantScope.NONE, both) == [False, False]

    @pytest.mark.parametrize("scope", ["alice", "all"])
    def test_after_an_error_a_rollback_and_a_lost_connection(
        self, database: Database, alice: Tenant, charlie: Tenant, scope: str
    ) -> None:
        both = (alice, charlie)
        wide: int | TenantScope = alice.workspace_row if scope == "alice" else TenantScope.ALL

        for statement in ("SELECT 1 / 0", "ROLLBACK", "SELECT pg_terminate_backend(pg_backend_pid())"):
            with suppress(RuntimeError, SQLAlchemyError, StorageUnavailable), database.transaction(wide) as session:
                session.execute(text(statement))
                raise RuntimeError
            assert self._sees(database, TenantScope.NONE, both) == [False, False], statement
            assert self._sees(database, charlie.workspace_row, both) == [False, True], statement

    def test_a_dedicated_connection_sees_nothing_by_itself(self, database: Database, alice: Tenant) -> None:
        self._sees(database, TenantScope.ALL, (alice, alice))
        connection = database.dedicated_connection()
        try:
            assert connection.run("SELECT count(*) FROM projects", [], float("inf")) == [(0,)]
        finally:
            connection.close()

    def test_a_query_that_forgot_its_workspace_shows_only_the_callers(
        self, database: Database, alice: Tenant, charlie: Tenant
    ) -> None:
        """What row security is for: the bare select that a review has overlooked."""
        with database.transaction(alice.workspace_row) as session:
            keys = set(session.scalars(text("SELECT public_id FROM source_keys")))
        assert keys == {alice.key_id}


class TestStart:
    """`wsgi:app` and `wsgi.celery` refuse a role that row security does not bind."""

    _WAYS_OUT = ("docs/operations.md", "LARIBA_ALLOW_RLS_BYPASS=on")

    @pytest.fixture(
        name="unbound",
        params=[
            "the owner",
            *(pytest.param(each, marks=pytest.mark.slow) for each in ("a superuser", "BYPASSRLS", "a member")),
            "a silent member",
        ],
    )
    def _unbound(self, request: pytest.FixtureRequest, server_url: str, settings: Settings) -> Iterator[Settings]:
        """Settings with a role that could see everything."""
        database = str(conninfo_to_dict(settings.database_url)["dbname"])
        app, owner = f"{database}_app", f"{database}_owner"
        if request.param == "the owner":
            yield replace(settings, database_url=settings.admin_database_url)
            return
        name = f"{database}_unbound"
        said = {
            "a superuser": "CREATE ROLE {name} LOGIN PASSWORD 'test' SUPERUSER",
            "BYPASSRLS": "CREATE ROLE {name} LOGIN PASSWORD 'test' BYPASSRLS IN ROLE {app}",
            "a member": "CREATE ROLE {name} LOGIN PASSWORD 'test' IN ROLE {owner}",
            "a silent member": "CREATE ROLE {name} LOGIN PASSWORD 'test' NOINHERIT IN ROLE {owner};"
            " GRANT SELECT ON alembic_version TO {name}",
        }[request.param]
        names = {key: sql.Identifier(value) for key, value in {"name": name, "app": app, "owner": owner}.items()}
        with psycopg.connect(database_url(server_url, "postgres", database), autocommit=True) as server:
            server.execute(sql.SQL(said).format(**names))
            try:
                yield replace(settings, database_url=database_url(server_url, name, database))
            finally:
                server.execute(sql.SQL("DROP OWNED BY {name}; DROP ROLE {name}").format(**names))

    def _start(self, settings: Settings, checkout: Path, *command: str, **more: str) -> tuple[int, str]:
        ended = subprocess.run(
            [sys.executable, *command],
            cwd=checkout,
            env=environment_of(settings) | more,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return ended.returncode, ended.stderr

    def test_with_one_line_that_names_the_way_out(self, unbound: Settings, checkout: Path) -> None:
        status, said = self._start(unbound, checkout, "-c", "import wsgi")

        assert status != 0
        (line,) = said.splitlines()
        assert line.startswith("lariba: the role in LARIBA_DATABASE_URL ")
        assert all(way in line for way in self._WAYS_OUT)
        assert "test@" not in line

    @pytest.mark.slow
    def test_unless_the_setting_allows_it(self, unbound: Settings, checkout: Path) -> None:
        said = self._start(unbound, checkout, "-c", "import wsgi", LARIBA_ALLOW_RLS_BYPASS="on")

        assert said == (0, "")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "command",
        [
            ["-m", "granian", "--interface", "wsgi", "--port", "0", "--log-level", "error", "wsgi:app"],
            ["-m", "celery", "-A", "wsgi.celery", "worker"],
            ["-m", "celery", "-A", "wsgi.celery", "beat"],
            ["-m", "flask", "--app", "wsgi", "run", "--port", "0"],
        ],
        ids=lambda command: " ".join(command[1:3]),
    )
    def test_every_server_and_worker_ends_alike(self, settings: Settings, checkout: Path, command: list[str]) -> None:
        owners = replace(settings, database_url=settings.admin_database_url)

        status, said = self._start(owners, checkout, *command)

        assert status != 0
        assert "Traceback" not in said
        assert len([line for line in said.splitlines() if line.startswith("lariba: the role in ")]) == 1

    def test_the_operators_shell_works_all_the_same(self, settings: Settings, checkout: Path) -> None:
        owners = replace(settings, database_url=settings.admin_database_url)

        assert self._start(owners, checkout, "-m", "flask", "--app", "wsgi", "workspace", "list")[0] == 0

    def test_a_right_that_is_given_later_ends_the_readiness(self, settings: Settings) -> None:
        for url, allowed, status in (
            (settings.database_url, "off", 200),
            (settings.admin_database_url, "off", 503),
            (settings.admin_database_url, "on", 200),
        ):
            app = create_app(replace(settings, database_url=url, allow_rls_bypass=allowed, database_pool_size=1))
            ready = app.test_client().get("/readyz")
            assert ready.status_code == status
            assert ((ready.json or {})["checks"]["row_level_security"] == "ok") is (status == 200)
            close(app.extensions[EXTENSION].database)
