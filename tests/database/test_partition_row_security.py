"""Row security by the name of a partition, and for report roles."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import InsufficientPrivilege, RaiseException

from app.config import Settings
from app.context import EXTENSION, Context
from app.database.migrate import migrate
from app.factory import create_app
from tests.support.databases import close, copied_database
from tests.support.people import Tenant, make_tenant
from tests.support.sending import send
from tests.support.servers import database_url

_PARTITIONS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass ORDER BY 1"
_POLICIES = (
    "SELECT policyname, permissive, roles::text[], cmd, qual, with_check FROM pg_policies"
    " WHERE tablename = %s ORDER BY 1"
)
_EVENT = "INSERT INTO events SELECT {}, {}, gen_random_uuid(), {}, 1, 1, 1, 'e', 'a', 'info', now(), '{{}}'"
_USAGE = (
    "INSERT INTO usage_hours (project_id, source_key_id, hour, outcome, workspace_id, source_id, events, payload_bytes)"
    " VALUES ({}, 1, now(), 'stored', {}, 1, 1, 1)"
)

pytestmark = pytest.mark.wiring
Report = Callable[[], psycopg.Connection]


@pytest.fixture(name="fresh")
def _fresh(server_url: str, migrated: Settings) -> Iterator[Settings]:
    """A database of this test's own, whose privileges it may change."""
    with copied_database(server_url, migrated) as settings:
        yield settings


@pytest.fixture(name="owner")
def _owner(fresh: Settings) -> Iterator[psycopg.Connection]:
    with psycopg.connect(fresh.admin_database_url, autocommit=True) as owner:
        yield owner


@pytest.fixture(name="tenants")
def _tenants(fresh: Settings, owner: psycopg.Connection) -> Iterator[tuple[Tenant, Tenant]]:
    """Two with an event today, and one in the default partition."""
    app = create_app(fresh)
    context = app.extensions[EXTENSION]
    assert isinstance(context, Context)
    pair = make_tenant(context), make_tenant(context)
    for tenant in pair:
        assert send(app.test_client(), tenant).status_code == 201
        for moment in ("now()", "'2010-01-01Z'"):
            owner.execute(_EVENT.format(tenant.project_row, moment, tenant.workspace_row))
        owner.execute(_USAGE.format(tenant.project_row, tenant.workspace_row))
    yield pair
    close(context.database)


def _workspaces(connection: psycopg.Connection, relation: str) -> set[int]:
    return {row for (row,) in connection.execute(f"SELECT workspace_id FROM {relation}").fetchall()}


def _all_partitions(owner: psycopg.Connection) -> list[str]:
    return [name for (name,) in owner.execute(_PARTITIONS).fetchall()]


class TestPartitions:
    def test_each_has_the_policies_of_events(self, owner: psycopg.Connection) -> None:
        owner.execute("SELECT make_event_partitions('2031-03-30', 2)")

        wanted = owner.execute(_POLICIES, ["events"]).fetchall()
        assert [name for name, *_ in wanted] == ["within_workspace"]
        for partition in ["events_20310330", *_all_partitions(owner)]:
            assert owner.execute(_POLICIES, [partition]).fetchall() == wanted, partition
            is_on = owner.execute("SELECT relrowsecurity FROM pg_class WHERE relname = %s", [partition]).fetchone()
            assert is_on == (True,), partition

    def test_a_role_that_may_read_them_by_name_sees_its_workspace_only(
        self, fresh: Settings, owner: psycopg.Connection, tenants: tuple[Tenant, Tenant]
    ) -> None:
        role = sql.Identifier(str(conninfo_to_dict(fresh.database_url)["user"]))
        owner.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}").format(role))
        seen = set()
        with psycopg.connect(fresh.database_url, autocommit=True) as app:
            for partition in _all_partitions(owner):
                assert _workspaces(app, partition) == set(), partition
            app.execute("SELECT set_config('lariba.workspace', %s, false)", [str(tenants[0].workspace_row)])
            for partition in _all_partitions(owner):
                found = _workspaces(app, partition)
                assert found <= {tenants[0].workspace_row}, partition
                seen |= {partition} if found else set()
        assert "events_default" in seen
        assert len(seen) == 2

    def test_one_without_policies_ends_the_readiness_and_is_put_right_by_migrating(
        self, fresh: Settings, owner: psycopg.Connection
    ) -> None:
        """A table that an operator has attached."""
        owner.execute("CREATE TABLE of_before (LIKE events INCLUDING CONSTRAINTS)")
        owner.execute("ALTER TABLE events ATTACH PARTITION of_before FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')")
        app = create_app(replace(fresh, database_pool_size=1))
        client = app.test_client()

        said = (client.get("/readyz").json or {})["checks"]["row_level_security"]
        assert said.startswith("the table of_before has no row level security")
        assert "flask --app wsgi migrate" in said

        migrate(fresh)
        assert client.get("/readyz").status_code == 200
        close(app.extensions[EXTENSION].database)


class TestReportRole:
    """A role of its own for a program that reads one workspace by SQL."""

    @pytest.fixture(name="connect")
    def _connect(
        self, server_url: str, fresh: Settings, owner: psycopg.Connection, tenants: tuple[Tenant, Tenant]
    ) -> Iterator[Report]:
        """As a role that reads the first workspace, and that was also granted SELECT on every table."""
        database = str(conninfo_to_dict(fresh.database_url)["dbname"])
        name = f"{database}_report"
        role = sql.Identifier(name)
        opened: list[psycopg.Connection] = []
        with psycopg.connect(database_url(server_url, "postgres", database), autocommit=True) as server:
            server.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'test'").format(role))
            owner.execute("SELECT admit_report_role(%s, %s)", [name, tenants[0].workspace_id])
            owner.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}").format(role))

            def connect() -> psycopg.Connection:
                opened.append(psycopg.connect(database_url(server_url, name, database), autocommit=True))
                return opened[-1]

            yield connect
            for connection in opened:
                connection.close()
            server.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))

    @pytest.mark.parametrize("said", [[], ["lariba.all_workspaces", "on"], ["lariba.workspace", "2"]], ids=str)
    def test_sees_its_workspace_and_no_other_whatever_it_sets(
        self, owner: psycopg.Connection, tenants: tuple[Tenant, Tenant], connect: Report, said: list[str]
    ) -> None:
        mine, other = (tenant.workspace_row for tenant in tenants)
        assert other == 2
        report = connect()
        if said:
            report.execute("SELECT set_config(%s, %s, false)", said)
        owner.execute("SELECT make_event_partitions('2031-03-30', 1)")
        owner.execute(sql.SQL("GRANT SELECT ON events_20310330 TO {}").format(sql.Identifier(report.info.user)))
        for workspace in (mine, other):
            owner.execute(_EVENT.format(1, "'2031-03-30 12:00Z'", workspace))

        for relation in ("events", "projects", "sources", "environments", "usage_hours"):
            assert _workspaces(report, relation) == {mine}, relation
        for partition in _all_partitions(owner):
            assert _workspaces(report, partition) <= {mine}, partition
        for partition in ("events_20310330", "events_default"):
            assert _workspaces(report, partition) == {mine}, partition
        for relation in (
            "source_keys",
            "management_tokens",
            "event_ledger",
            "idempotency_records",
            "maintenance_tasks",
        ):
            assert report.execute(f"SELECT count(*) FROM {relation}").fetchone() == (0,), relation
        assert report.execute("SELECT count(*) FROM workspaces").fetchone() == (1,)

    def test_writes_nothing(self, tenants: tuple[Tenant, Tenant], connect: Report) -> None:
        report = connect()
        for statement in (
            _EVENT.format(1, "now()", tenants[0].workspace_row),
            "DELETE FROM events",
            "UPDATE projects SET name = 'x'",
            "SELECT admit_report_role(current_user, 'ws_other')",
            "SELECT store_events('[]', '[]', '{}', interval '1 day', '1s', true)",
        ):
            with pytest.raises(InsufficientPrivilege):
                report.execute(statement)

    def test_can_be_given_another_workspace_and_goes_without_a_trace(
        self, owner: psycopg.Connection, tenants: tuple[Tenant, Tenant], connect: Report
    ) -> None:
        report = connect()
        (name,) = report.execute("SELECT current_user").fetchone() or ("",)
        owner.execute("SELECT admit_report_role(%s, %s)", [name, tenants[1].workspace_id])

        assert _workspaces(report, "events") == {tenants[1].workspace_row}
        with pytest.raises(RaiseException, match="no workspace ws_unknown"):
            owner.execute("SELECT admit_report_role(%s, 'ws_unknown')", [name])


def test_a_role_without_policies_sees_nothing_whatever_it_sets(
    server_url: str, fresh: Settings, owner: psycopg.Connection, tenants: tuple[Tenant, Tenant]
) -> None:
    database = str(conninfo_to_dict(fresh.database_url)["dbname"])
    role = sql.Identifier(f"{database}_stranger")
    with psycopg.connect(database_url(server_url, "postgres", database), autocommit=True) as server:
        server.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'test'").format(role))
        owner.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}").format(role))
        with psycopg.connect(database_url(server_url, f"{database}_stranger", database), autocommit=True) as stranger:
            stranger.execute("SET lariba.all_workspaces = 'on'")
            for relation in ("events", "workspaces", "source_keys", "event_ledger", *_all_partitions(owner)):
                assert stranger.execute(f"SELECT count(*) FROM {relation}").fetchone() == (0,), relation
        server.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))
