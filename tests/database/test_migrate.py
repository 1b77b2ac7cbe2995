"""The schema: up, down, up again; equal to the models; and a start that refuses one that is behind."""

import json
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from app.config import Settings
from app.database.conninfo import conninfo_of
from app.database.migrate import SchemaBehindError, UnknownSchemaError, behind, downgrade, migrate, require_head
from app.database.owner import owner_engine
from app.models import Base
from tests.support.databases import fresh_database
from tests.support.live import environment_of
from tests.support.servers import database_url


@pytest.fixture(name="empty")
def _empty(server_url: str) -> Iterator[Settings]:
    with fresh_database(server_url) as settings:
        yield settings


def test_every_migration_goes_up_and_down_and_up_again_and_leaves_nothing_behind(
    empty: Settings, checkout: Path
) -> None:
    before = _objects(empty)
    for revision in _revisions(checkout):
        migrate(empty, revision)
    downgrade(empty, "base")

    assert _objects(empty) - before == {"alembic_version"}
    migrate(empty)
    migrate(empty)


def test_the_code_of_before_keeps_its_rights_while_migrations_run_and_after_a_downgrade(
    empty: Settings,
) -> None:
    """Rights are granted behind the last migration, and a later one may have to be run again after some minutes."""
    before = "a014"
    migrate(empty, before)
    rights = _rights(empty)
    assert ("readable_segments", "SELECT") in rights

    with patch("app.database.migrate._grant"):
        migrate(empty)

    assert rights - _rights(empty) == set()
    downgrade(empty, before)
    assert _rights(empty) == rights


@pytest.mark.slow
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


def test_a_migration_is_called_after_its_revision_and_follows_the_one_before(checkout: Path) -> None:
    files = sorted(path.name for path in (checkout / "migrations/versions").glob("*.py"))
    scripts = [ScriptDirectory(str(checkout / "migrations")).get_revision(name) for name in _revisions(checkout)]

    assert [name for name in files if not re.fullmatch(r"a\d{3}(_[a-z]+)+\.py", name)] == []
    assert _revisions(checkout) == [f"a{number:03}" for number in range(1, len(files) + 1)]
    assert [script.down_revision for script in scripts] == [None, *_revisions(checkout)[:-1]]


@pytest.mark.parametrize(
    ("revision", "said"),
    [
        ("0003", "a checkout before the first release made: begin with a new database"),
        ("a999", "a later version of this code made: migrate with that version"),
    ],
)
def test_a_schema_that_the_code_does_not_know_is_left_alone_and_named(
    empty: Settings, checkout: Path, revision: str, said: str
) -> None:
    migrate(empty, "a001")
    _set_revision(empty, revision)

    with pytest.raises(UnknownSchemaError, match=f"the schema is at {revision}, which {said}"):
        migrate(empty)
    ended = _start(["-m", "flask", "--app", "wsgi", "migrate"], checkout, environment_of(empty))

    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert said in line
    assert "usage_hours" not in _objects(empty)


def test_a_schema_behind_the_code_is_named_and_one_ahead_of_it_is_not(empty: Settings) -> None:
    engine = owner_engine(empty.admin_database_url)
    with pytest.raises(SchemaBehindError, match=r"at nothing.*migrate"):
        require_head(engine)
    migrate(empty, "a001")
    with pytest.raises(SchemaBehindError, match="at a001 and this code needs"):
        require_head(engine)
    migrate(empty)
    require_head(engine)
    _set_revision(empty, "a999")
    require_head(engine)


def test_a_schema_of_before_the_first_release_is_not_taken_for_one_ahead(empty: Settings) -> None:
    migrate(empty)
    _set_revision(empty, "0017")

    with pytest.raises(SchemaBehindError, match="at 0017, which a checkout before the first release made"):
        require_head(owner_engine(empty.admin_database_url))


class TestStart:
    """`wsgi:app` and `wsgi.celery` as a server would load them."""

    @pytest.mark.parametrize(
        "command",
        [
            pytest.param(
                ["-m", "granian", "--interface", "wsgi", "--port", "0", "--log-level", "error", "wsgi:app"],
                marks=pytest.mark.slow,
            ),
            pytest.param(["-m", "celery", "-A", "wsgi.celery", "worker"], marks=pytest.mark.slow),
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

    @pytest.mark.slow
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

    @pytest.mark.slow
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


def _revisions(checkout: Path) -> list[str]:
    return sorted(path.name[:4] for path in (checkout / "migrations/versions").glob("*.py"))


def _set_revision(settings: Settings, revision: str) -> None:
    with psycopg.connect(settings.admin_database_url) as owner:
        owner.execute("UPDATE alembic_version SET version_num = %s", [revision])


def _objects(settings: Settings) -> set[str]:
    with psycopg.connect(settings.admin_database_url) as connection:
        relations = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'S')"
            " UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        ).fetchall()
    return {str(name) for (name,) in relations}


def _rights(settings: Settings) -> set[tuple[str, str]]:
    """Those of the app's role, by table or view."""
    with psycopg.connect(settings.admin_database_url) as connection:
        found = connection.execute(
            "SELECT table_name, privilege_type FROM information_schema.role_table_grants WHERE grantee = %s",
            [conninfo_of(settings.database_url)["user"]],
        )
        return {(table, right) for table, right in found.fetchall()}


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
