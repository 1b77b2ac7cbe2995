"""The barrier of a workspace, which ingest holds shared and a revocation exclusively."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import NoResultFound

from app.context import Context
from app.database.advisory_locks import exclude_workspace, workspace_lock
from app.database.engine import TenantScope
from tests.support.people import Tenant

_HELD = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = :mode AND pid = pg_backend_pid()")


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
