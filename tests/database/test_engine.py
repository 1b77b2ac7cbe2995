"""transaction(): one owner of the commit, and a process that forks."""

import os

import psycopg
import pytest
from sqlalchemy import text

from app.config import Settings
from app.context import Context
from app.database.conninfo import conninfo_of
from app.database.engine import Database, TenantScope
from app.errors import Conflict, StorageUnavailable
from tests.support.databases import close
from tests.support.people import Tenant, execute, rows


def test_what_is_raised_in_the_block_rolls_it_back(context: Context, alice: Tenant) -> None:
    with pytest.raises(Conflict), context.database.transaction(TenantScope.ALL) as session:  # noqa: PT012 - the block is the subject
        session.execute(text("UPDATE workspaces SET name = 'gone' WHERE id = :id"), {"id": alice.workspace_row})
        raise Conflict

    assert rows(context, "SELECT 1 FROM workspaces WHERE id = :id AND name = 'gone'", id=alice.workspace_row) == []


def test_a_statement_past_its_deadline_is_given_up_and_the_pool_goes_on(context: Context) -> None:
    with (
        pytest.raises(StorageUnavailable),
        context.database.transaction(TenantScope.ALL, deadline_seconds=0.2) as session,
    ):
        session.execute(text("SELECT pg_sleep(30)"))

    assert rows(context, "SELECT 1 AS one")[0].one == 1


def test_a_lock_that_is_not_free_in_time_means_unavailable(context: Context, alice: Tenant) -> None:
    with context.database.transaction(TenantScope.ALL) as session:
        session.execute(text("SELECT 1 FROM workspaces WHERE id = :id FOR UPDATE"), {"id": alice.workspace_row})
        with pytest.raises(StorageUnavailable):
            execute(context, "UPDATE workspaces SET name = 'x' WHERE id = :id", id=alice.workspace_row)


class TestATransactionToRead:
    def test_cannot_write_and_the_next_one_of_its_connection_can(self, context: Context, alice: Tenant) -> None:
        write = text("UPDATE workspaces SET name = 'written' WHERE id = :id")
        read = context.database.transaction(alice.workspace_row, reads_for_seconds=5.0)

        with pytest.raises(StorageUnavailable) as refused, read as session:
            session.execute(write, {"id": alice.workspace_row})
        with context.database.transaction(alice.workspace_row) as session:
            session.execute(write, {"id": alice.workspace_row})

        assert "read-only transaction" in str(refused.value.__cause__)

    def test_has_no_statement_that_takes_longer(self, context: Context, alice: Tenant) -> None:
        read = context.database.transaction(alice.workspace_row, reads_for_seconds=0.001)

        with pytest.raises(StorageUnavailable) as refused, read as session:
            session.execute(text("SELECT pg_sleep(5)"))

        assert "statement timeout" in str(refused.value.__cause__)


def test_a_session_does_not_depend_on_what_the_server_or_the_role_prefers(settings: Settings) -> None:
    """Repeatable read would let an ingest behind a revocation miss it; a zone east of Greenwich has a year 10000."""
    role = conninfo_of(settings.database_url)["user"]
    preferences = {"default_transaction_isolation": "repeatable read", "timezone": "Asia/Tokyo", "lock_timeout": "9s"}
    preferences |= {"synchronous_commit": "off", "datestyle": "SQL, DMY"}
    with psycopg.connect(settings.database_url, autocommit=True) as owner:
        for name, value in preferences.items():
            owner.execute(f"ALTER ROLE {role} SET {name} = '{value}'")
    database = Database(settings.database_url, pool_size=1)
    try:
        with database.transaction(TenantScope.ALL) as session:
            names = ("transaction_isolation", "timezone", "lock_timeout", "synchronous_commit", "datestyle")
            found = [session.execute(text(f"SHOW {name}")).scalar_one() for name in names]
    finally:
        close(database)
        with psycopg.connect(settings.database_url, autocommit=True) as owner:
            owner.execute(f"ALTER ROLE {role} RESET ALL")

    assert found[:-1] == ["read committed", "UTC", "1s", "on"]
    assert found[-1].startswith("ISO")


def test_options_in_the_url_are_kept_beside_ours(settings: Settings) -> None:
    separator = "&" if "?" in settings.database_url else "?"
    database = Database(f"{settings.database_url}{separator}options=-cwork_mem%3D5MB", pool_size=1)
    with database.transaction(TenantScope.ALL) as session:
        found = [session.execute(text(f"SHOW {name}")).scalar_one() for name in ("work_mem", "timezone")]
    close(database)

    assert found == ["5MB", "UTC"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_opens_connections_of_its_own(settings: Settings) -> None:
    database = Database(settings.database_url, pool_size=1)

    def backend() -> int:
        with database.transaction(TenantScope.NONE) as session:
            return int(session.execute(text("SELECT pg_backend_pid()")).scalar_one())

    parent = backend()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, str(backend()).encode())
        os._exit(0)
    os.waitpid(child, 0)

    assert os.read(reader, 100) != str(parent).encode()
    assert backend() == parent
    close(database)
