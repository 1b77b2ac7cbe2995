"""The barrier of a workspace, which ingest holds shared and a revocation exclusively."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.exc import NoResultFound

from app.config import Settings
from app.context import Context
from app.database.advisory_locks import exclude_workspace, workspace_lock
from app.database.engine import Database, TenantScope
from tests.support.databases import close
from tests.support.people import Tenant, rows
from tests.support.servers import OUR_LOCKS
from tests.support.waiting import wait_until

_HELD = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = :mode AND pid = pg_backend_pid()")

_WAITING = f"SELECT 1 FROM {OUR_LOCKS} locktype = 'advisory' AND NOT granted"


def test_it_is_taken_on_the_workspace_that_the_transaction_sees(context: Context, alice: Tenant) -> None:
    with context.database.transaction(alice.workspace_row) as session:
        exclude_workspace(session, alice.workspace_row)

        assert session.execute(_HELD, {"mode": "ExclusiveLock"}).scalar_one() == 1
        free = text("SELECT pg_try_advisory_xact_lock_shared(:key)")
        with context.database.transaction(TenantScope.NONE) as ingest:
            assert not ingest.execute(free, {"key": workspace_lock(alice.workspace_row)}).scalar_one()


def test_it_is_never_missed_in_silence(context: Context, alice: Tenant, charlie: Tenant) -> None:
    with context.database.transaction(alice.workspace_row) as session, pytest.raises(NoResultFound):
        exclude_workspace(session, charlie.workspace_row)


@pytest.fixture(name="hurried")
def _hurried(settings: Settings) -> Iterator[Database]:
    """Waits a millisecond for any other lock."""
    database = Database(settings.database_url, pool_size=1, lock_timeout_seconds=0.001)
    yield database
    close(database)


def test_it_is_waited_for_eight_seconds_however_short_the_wait_for_other_locks_is(
    context: Context, hurried: Database, alice: Tenant
) -> None:
    """A revocation that gave up beside busy ingest would have to be repeated by a person."""

    def revoke() -> str:
        with hurried.transaction(alice.workspace_row) as session:
            exclude_workspace(session, alice.workspace_row)
            return str(session.execute(text("SHOW lock_timeout")).scalar_one())

    with ThreadPoolExecutor(1) as pool:
        with context.database.transaction(TenantScope.NONE) as ingest:
            share = text("SELECT pg_advisory_xact_lock_shared(:key)")
            ingest.execute(share, {"key": workspace_lock(alice.workspace_row)})
            revocation = pool.submit(revoke)
            wait_until(lambda: revocation.done() or rows(context, _WAITING))
        assert revocation.result() == "8s"
