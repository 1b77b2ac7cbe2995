"""The schema: up, down, up again; equal to the models; and a start that refuses one that is behind."""

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.util import CommandError

from app.config import Settings
from app.database.engine import conninfo_of
from app.database.migrate import SchemaBehindError, behind, downgrade, migrate, require_head
from app.database.owner import owner_engine
from app.models import Base
from tests.support.databases import fresh_database
from tests.support.live import environment_of
from tests.support.servers import database_url


@pytest.fixture(name="empty")
def _empty(server_url: str) -> Iterator[Settings]:
    with fresh_database(server_url) as settings:
        yield settings


def test_every_migration_goes_up_and_down_and_up_again_and_leaves_nothing_behind(empty: Settings) -> None:
    before = _objects(empty)
    for revision in ("0001", "0002", "0003", "0004", "0005", "head"):
        migrate(empty, revision)
    downgrade(empty, "base")

    assert _objects(empty) - before == {"alembic_version"}
    migrate(empty)
    migrate(empty)


def test_four_deploys_at_once_migrate_once(empty: Settings, checkout: Path) -> None:
    command = ["-m", "flask", "--app", "wsgi", "migrate"]

    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(lambda _: _start(command, checkout, environment_of(empty)), range(4)))

    assert [deploy.returncode for deploy in ended] == [0] * 4, ended
    with owner_engine(empty.admin_database_url).connect() as connection:
        assert behind(connection) is None


def test_the_migrated_schema_is_the_one_that_the_models_describe(settings: Settings) -> None:
    def is_ours(_object: object, name: str | None, kind: str, *_: object) -> bool:
        return not (kind == "table" and name is not None and name.startswith("events_")) and name != "alembic_version"

    with owner_engine(settings.admin_database_url).connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"include_object": is_ours, "compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []


def test_no_text_is_compared_in_the_order_of_a_locale(settings: Settings) -> None:
    """Which an upgrade of the C library may change, under a unique index that relies on it."""
    with psycopg.connect(settings.admin_database_url) as owner:
        columns = owner.execute(
            "SELECT attrelid::regclass::text, attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid"
            " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'i', 'I') AND attnum > 0"
            " AND attcollation NOT IN (0, '\"C\"'::regcollation) AND NOT attisdropped"
        ).fetchall()
    # One row, written by alembic.
    assert set(columns) == {("alembic_version", "version_num"), ("alembic_version_pkc", "version_num")}


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM events",
        "UPDATE events SET severity = 'info'",
        "UPDATE audit_entries SET actor = 'nobody'",
        "DELETE FROM audit_entries",
        "TRUNCATE audit_entries",
        "DELETE FROM workspaces",
        "DROP TABLE usage_hours",
        "CREATE TABLE intruder ()",
    ],
)
def test_the_apps_role_may_not(settings: Settings, statement: str) -> None:
    with (
        psycopg.connect(settings.database_url) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement)


def test_a_schema_that_the_code_does_not_know_is_left_alone_and_named(empty: Settings) -> None:
    migrate(empty)
    with psycopg.connect(empty.admin_database_url) as owner:
        owner.execute("UPDATE alembic_version SET version_num = '0016'")

    with pytest.raises(CommandError, match="the schema is at 0016, which this code does not know"):
        migrate(empty)


def test_a_schema_behind_the_code_is_named_and_one_ahead_of_it_is_not(empty: Settings) -> None:
    engine = owner_engine(empty.admin_database_url)
    with pytest.raises(SchemaBehindError, match=r"at nothing.*migrate"):
        require_head(engine)
    migrate(empty, "0001")
    with pytest.raises(SchemaBehindError, match="at 0001 and this code needs"):
        require_head(engine)
    migrate(empty)
    require_head(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    require_head(engine)


class TestStart:
    """`wsgi:app` and `wsgi.celery` as a server would load them."""

    @pytest.mark.parametrize(
        "command",
        [
            ["-m", "granian", "--interface", "wsgi", "--port", "0", "--log-level", "error", "wsgi:app"],
            ["-m", "celery", "-A", "wsgi.celery", "worker"],
            ["-c", "import wsgi"],
        ],
    )
    def test_a_schema_behind_ends_the_start_with_one_line(
        self, empty: Settings, checkout: Path, command: list[str]
    ) -> None:
        ended = _start(command, checkout, environment_of(empty))

        assert ended.returncode != 0
        assert "Traceback" not in ended.stderr
        lines = [line for line in ended.stderr.splitlines() if line.startswith("lariba: ")]
        assert len(lines) == 1
        assert "run `flask --app wsgi migrate`" in lines[0]

    @pytest.mark.parametrize("variable", ["LARIBA_DATABASE_URL", "LARIBA_BROKER_URL", "LARIBA_SECRET_KEY"])
    def test_a_missing_setting_ends_the_start_with_its_name(
        self, settings: Settings, checkout: Path, variable: str
    ) -> None:
        environment = environment_of(settings) | {variable: ""}

        ended = _start(["-c", "import wsgi"], checkout, environment)

        assert ended.returncode != 0
        assert ended.stderr == f"lariba: {variable} is missing; docs/settings.md says what it holds\n"

    def test_a_database_that_cannot_hold_every_character_ends_the_start_with_one_line(
        self, server_url: str, settings: Settings, checkout: Path
    ) -> None:
        name = f"lariba_test_{secrets.token_hex(4)}"
        with psycopg.connect(server_url, autocommit=True) as server:
            server.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
            try:
                latin = replace(settings, database_url=database_url(server_url, "postgres", name))
                ended = _start(["-c", "import wsgi"], checkout, environment_of(latin))
            finally:
                server.execute(f"DROP DATABASE {name} WITH (FORCE)")

        assert ended.returncode != 0
        (line,) = ended.stderr.splitlines()
        assert line.startswith("lariba: the database in LARIBA_DATABASE_URL is not in the encoding UTF8")

    def test_a_c_library_with_another_order_of_text_is_logged_and_ends_nothing(
        self, server_url: str, empty: Settings, checkout: Path
    ) -> None:
        migrate(empty)
        with psycopg.connect(server_url, autocommit=True) as server:
            name = conninfo_of(empty.database_url)["dbname"]
            server.execute("UPDATE pg_database SET datcollversion = '0.1' WHERE datname = %s", [name])
        ended = _start(["-c", "import wsgi"], checkout, environment_of(empty))

        assert ended.returncode == 0
        line = json.loads(ended.stderr)
        assert (line["event"], line["recorded"]) == ("database_collation_changed", "0.1")

    def test_an_operator_can_migrate_a_schema_that_is_behind(self, empty: Settings, checkout: Path) -> None:
        ended = _start(["-m", "flask", "--app", "wsgi", "migrate"], checkout, environment_of(empty))

        assert ended.returncode == 0, ended.stderr
        assert "Traceback" not in ended.stderr
        require_head(owner_engine(empty.admin_database_url))


def test_one_role_may_do_for_both_in_a_small_installation(empty: Settings) -> None:
    migrate(replace(empty, database_url=empty.admin_database_url))

    with owner_engine(empty.admin_database_url).connect() as connection:
        assert behind(connection) is None


def _objects(settings: Settings) -> set[str]:
    with psycopg.connect(settings.admin_database_url) as connection:
        relations = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'S')"
            " UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        ).fetchall()
    return {str(name) for (name,) in relations}


def _start(command: list[str], checkout: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
