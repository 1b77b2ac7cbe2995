import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from local.account import ACCOUNT_NAME, database_account
from local.errors import EmbeddedError
from local.postgres import EmbeddedPostgres
from tests.support.programs import lives, started
from tests.support.waiting import wait_until

QUICK = {"fsync": "off"}
ACTIVE = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT count(*) FROM gen%'"


@pytest.fixture(scope="module", name="server")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(tmp_path_factory.mktemp("shared") / "postgres", options=QUICK) as server:
        yield server


def ask(server: EmbeddedPostgres, statement: str, user: str = "postgres", database: str = "lariba") -> list[object]:
    with psycopg.connect(server.url(user, database), autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return [row[0] for row in cursor.fetchall()] if cursor.description else []


def test_the_products_roles_have_no_power_over_row_level_security(server: EmbeddedPostgres) -> None:
    powers = "rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR NOT rolcanlogin"
    assert ask(server, f"SELECT {powers} FROM pg_roles WHERE rolname LIKE 'lariba\\_%'") == [False, False]


def test_the_database_is_utf8_and_the_owners(server: EmbeddedPostgres) -> None:
    assert ask(server, "SHOW server_encoding") == ["UTF8"]
    assert ask(server, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'lariba'") == ["lariba_owner"]


def test_only_the_owner_may_create_tables(server: EmbeddedPostgres) -> None:
    ask(server, "CREATE TABLE owned (id int)", user="lariba_owner")

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        ask(server, "CREATE TABLE foreign_ (id int)", user="lariba_app")


def test_what_is_there_already_is_left_as_it_is(server: EmbeddedPostgres) -> None:
    ask(server, "CREATE TABLE kept (id int)", user="lariba_owner")

    server.provision()

    assert ask(server, "SELECT count(*) FROM kept", user="lariba_owner") == [0]


def test_durability_is_on_unless_a_test_gives_it_up(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "postgres") as server:
        assert ask(server, "SHOW fsync") == ["on"]
        assert ask(server, "SHOW synchronous_commit") == ["on"]


def test_it_listens_on_no_network_address(server: EmbeddedPostgres) -> None:
    assert [one for one in psutil.net_connections("inet") if one.pid == server.pid] == []


def test_committed_rows_survive_a_stop_a_power_cut_and_a_killed_postmaster(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "postgres") as server:
        ask(server, "CREATE TABLE kept (id int)", user="lariba_owner")
        first_pid = server.pid

        server.stop()
        server.start()
        ask(server, "INSERT INTO kept VALUES (1)", user="lariba_owner")
        server.stop(immediate=True)
        server.start()
        ask(server, "INSERT INTO kept VALUES (2)", user="lariba_owner")
        server.kill()
        server.start()

        assert server.pid != first_pid
        assert ask(server, "SELECT id FROM kept ORDER BY id", user="lariba_owner") == [1, 2]


@pytest.mark.slow
def test_a_backend_too_busy_to_see_its_server_die_does_not_keep_the_next_one_out(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "postgres", options=QUICK) as server:
        busy = psycopg.connect(server.url("postgres", "lariba"), autocommit=True)
        backend = psutil.Process(busy.info.backend_pid)
        busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 10000000000)")
        wait_until(lambda: ask(server, ACTIVE) == [1])
        server.kill()
        server.start()
        busy.close()

        assert not lives(backend)
        assert ask(server, "SELECT 1") == [1]


def test_data_survive_in_the_folder_from_one_server_to_the_next(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "postgres", options=QUICK) as server:
        ask(server, "CREATE TABLE kept (id int)", user="lariba_owner")

    with EmbeddedPostgres(tmp_path / "postgres", options=QUICK) as server:
        assert ask(server, "SELECT count(*) FROM kept", user="lariba_owner") == [0]


@pytest.mark.slow
def test_libpq_and_sqlalchemy_find_the_same_server_at_the_end_of_an_awkward_path(
    awkward_folder: Path,
) -> None:
    with EmbeddedPostgres(awkward_folder / "postgres", options=QUICK) as server:
        url = server.url("lariba_app", "lariba")
        engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
        with engine.connect() as connection:
            assert connection.execute(text("SELECT current_user")).scalar_one() == "lariba_app"
        engine.dispose()
        assert ask(server, "SELECT current_user", user="lariba_app") == ["lariba_app"]
        socket_folder = Path(url.partition("host=")[2])
        assert [one.stat().st_mode & 0o077 for one in (socket_folder, *socket_folder.glob(".s.PGSQL.*"))] == [0] * 3

    assert not socket_folder.exists()


@pytest.mark.slow
def test_a_space_in_a_short_path_needs_no_other_folder(short_folder: Path) -> None:
    with EmbeddedPostgres(short_folder / "a b+c" / "postgres", options=QUICK) as server:
        assert server.url("lariba_app", "lariba").endswith("/a%20b%2Bc/postgres")
        assert ask(server, "SELECT 1", user="lariba_app") == [1]


@pytest.mark.slow
def test_it_changes_the_permissions_of_no_folder_above_the_data(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    folders = [closed, *closed.parents]
    modes = [folder.stat().st_mode for folder in folders]

    with EmbeddedPostgres(closed / "inner" / "postgres", options=QUICK) as server:
        assert ask(server, "SELECT 1") == [1]
        process = psutil.Process(server.pid)
        assert process.username() == (ACCOUNT_NAME if os.geteuid() == 0 else psutil.Process().username())

    assert [folder.stat().st_mode for folder in folders] == modes


@pytest.mark.slow
def test_after_a_power_cut_a_process_number_given_out_again_does_not_hinder_the_start(tmp_path: Path) -> None:
    account = database_account()
    with EmbeddedPostgres(tmp_path / "postgres", options=QUICK) as server:
        server.kill()
    # The server's own user: of any other one PostgreSQL knows by itself that it is no server of its own.
    other = subprocess.Popen(["sleep", "600"], user=account.uid if account else None)
    try:
        for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            lock_file = tmp_path / "postgres" / name
            _, _, rest = lock_file.read_text().partition("\n")
            lock_file.write_text(f"{other.pid}\n{rest}")

        with EmbeddedPostgres(tmp_path / "postgres", options=QUICK) as server:
            assert ask(server, "SELECT 1") == [1]
    finally:
        other.kill()
        other.wait()


@pytest.mark.slow
def test_a_creation_cut_short_is_begun_anew(tmp_path: Path) -> None:
    draft = tmp_path / ".postgres.draft"
    draft.mkdir()
    (draft / "PG_VERSION").write_text("half")

    with EmbeddedPostgres(tmp_path / "postgres", options=QUICK) as server:
        assert ask(server, "SELECT 1") == [1]


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "letters.txt").write_text("dear")

    with (
        pytest.raises(EmbeddedError, match="holds something, but no database"),
        EmbeddedPostgres(tmp_path / "postgres"),
    ):
        pass

    assert (tmp_path / "postgres" / "letters.txt").read_text() == "dear"


def test_a_database_of_another_user_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedPostgres(tmp_path / "postgres", options=QUICK):
        pass
    other_user = (tmp_path / "postgres").stat().st_uid + 1
    monkeypatch.setattr(os, "geteuid", lambda: other_user)

    with pytest.raises(EmbeddedError, match="postgres belongs to "), EmbeddedPostgres(tmp_path / "postgres"):
        pass


def test_another_major_version_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("15\n")

    with pytest.raises(EmbeddedError, match="made by PostgreSQL 15"), EmbeddedPostgres(tmp_path / "postgres"):
        pass


@pytest.mark.slow
def test_it_does_not_outlive_a_killed_owner(tmp_path: Path) -> None:
    code = "import pathlib, sys, time; from local.postgres import EmbeddedPostgres\n"
    code += f"with EmbeddedPostgres(pathlib.Path({str(tmp_path / 'postgres')!r})): time.sleep(600)"
    with started("-c", code) as owner:
        owner.member("postgres: checkpointer")

        owner.process.kill()

        wait_until(owner.nothing_is_left, 60)


@pytest.mark.slow
def test_its_own_log_says_why_it_does_not_start(tmp_path: Path) -> None:
    with (
        pytest.raises(EmbeddedError, match="unrecognized configuration parameter"),
        EmbeddedPostgres(tmp_path / "postgres", options={**QUICK, "no_such_setting": "1"}),
    ):
        pass
