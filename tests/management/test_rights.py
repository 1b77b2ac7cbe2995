"""Whatever takes a right away waits for the events under way, so that none is stored after its answer."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text
from werkzeug.test import TestResponse

from app.context import Context
from app.database.advisory_locks import workspace_lock
from app.database.engine import TenantScope
from app.management.workspace.domain import set_workspace_status
from app.models import WorkspaceStatus
from tests.support.operating import ApiClient
from tests.support.people import Tenant, rows
from tests.support.sending import send
from tests.support.servers import OUR_LOCKS
from tests.support.waiting import wait_until

_WAITING = """
    SELECT 1 FROM pg_locks
    WHERE locktype = 'advisory' AND NOT granted AND mode = 'ExclusiveLock' AND objid::bigint = :workspace
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

Call = Callable[[], TestResponse]


@contextmanager
def _event_under_way(context: Context, tenant: Tenant) -> Iterator[None]:
    """As ingest holds its workspace from before its statement to its commit."""
    with context.database.transaction(TenantScope.ALL) as session:
        session.execute(
            text("SELECT pg_advisory_xact_lock_shared(:key)"), {"key": workspace_lock(tenant.workspace_row)}
        )
        yield


def _waits(context: Context, tenant: Tenant, act: Callable[[], object]) -> None:
    with ThreadPoolExecutor(1) as pool:
        with _event_under_way(context, tenant):
            pending = pool.submit(act)
            wait_until(lambda: rows(context, _WAITING, workspace=tenant.workspace_row))
            assert not pending.done()
        pending.result(timeout=10)


@pytest.fixture(name="taking")
def _taking(api: ApiClient, alice: Tenant) -> dict[str, Call]:
    """What takes a right away, the gentle first."""
    soon = (datetime.now(UTC) + timedelta(seconds=60)).isoformat()
    key, source = f"/v1/keys/{alice.key_id}", f"/v1/sources/{alice.source_id}"
    return {
        "an earlier expiry": partial(api.patch, key, {"expires_at": soon}),
        "fewer networks": partial(api.patch, key, {"allowed_networks": ["127.0.0.0/8"]}),
        "fewer event types": partial(api.patch, key, {"allowed_event_types": ["payment.*"]}),
        "fewer origins": partial(api.patch, key, {"allowed_origins": ["https://shop.example"]}),
        "a rotation without grace": partial(api.post, f"{key}/rotate", {"grace_seconds": 0}),
        "a new environment name": partial(api.patch, f"/v1/environments/{alice.environment_id}", {"name": "live"}),
        "disabling": partial(api.post, f"{source}/disable"),
        "revoking": partial(api.post, f"{key}/revoke"),
        "archiving a source": partial(api.delete, source),
        "archiving an environment": partial(api.delete, f"/v1/environments/{alice.environment_id}"),
        "archiving a project": partial(api.delete, f"/v1/projects/{alice.project_id}"),
    }


def test_taking_a_right_away_waits_for_the_events_under_way(
    context: Context, alice: Tenant, taking: dict[str, Call]
) -> None:
    for name, call in taking.items():
        answers: list[int] = []
        _waits(context, alice, lambda call=call, answers=answers: answers.append(call().status_code))  # type: ignore[misc]
        assert answers[0] in (200, 201, 204), name


_WAITS_FOR_A_ROW = f"SELECT 1 FROM {OUR_LOCKS} locktype IN ('transactionid', 'tuple') AND NOT granted"


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("an earlier expiry", "source_keys"),
        ("a rotation without grace", "source_keys"),
        ("revoking", "source_keys"),
        ("a new environment name", "environments"),
        ("disabling", "sources"),
        ("archiving a source", "sources"),
        ("archiving an environment", "environments"),
        ("archiving a project", "projects"),
    ],
)
def test_what_waits_for_a_row_keeps_no_event_waiting(
    context: Context, client: FlaskClient, alice: Tenant, taking: dict[str, Call], name: str, table: str
) -> None:
    held = text(f"SELECT 1 FROM {table} WHERE workspace_id = :id FOR UPDATE")
    with ThreadPoolExecutor(1) as pool:
        with context.database.transaction(TenantScope.ALL) as session:
            session.execute(held, {"id": alice.workspace_row})
            pending = pool.submit(taking[name])
            wait_until(lambda: rows(context, _WAITS_FOR_A_ROW))

            assert send(client, alice).status_code == 201
            assert not pending.done()
        assert pending.result(timeout=10).status_code in (200, 201, 204)


def test_suspending_a_workspace_waits_for_its_row_before_it_keeps_events_waiting(
    context: Context, client: FlaskClient, alice: Tenant
) -> None:
    suspend = partial(set_workspace_status, context.database, alice.workspace_id, WorkspaceStatus.SUSPENDED)
    with ThreadPoolExecutor(1) as pool:
        with context.database.transaction(TenantScope.ALL) as session:
            session.execute(text("SELECT 1 FROM workspaces WHERE id = :id FOR UPDATE"), {"id": alice.workspace_row})
            pending = pool.submit(suspend)
            wait_until(lambda: rows(context, _WAITS_FOR_A_ROW))

            assert send(client, alice).status_code == 201
        assert pending.result(timeout=10).status is WorkspaceStatus.SUSPENDED


def test_suspending_a_workspace_waits_for_the_events_under_way(context: Context, alice: Tenant) -> None:
    _waits(
        context,
        alice,
        lambda: set_workspace_status(context.database, alice.workspace_id, WorkspaceStatus.SUSPENDED),
    )


def test_what_takes_no_right_away_waits_for_no_lock(context: Context, api: ApiClient, alice: Tenant) -> None:
    with _event_under_way(context, alice):
        answers = [
            api.post("/v1/projects", {"name": "New"}),
            api.patch(f"/v1/environments/{alice.environment_id}", {"description": "New"}),
            api.patch(f"/v1/sources/{alice.source_id}", {"name": "New"}),
            api.post(f"/v1/sources/{alice.source_id}/enable"),
            api.post(f"/v1/sources/{alice.source_id}/keys", {}),
            api.patch(f"/v1/keys/{alice.key_id}", {"label": "New"}),
        ]

    assert [each.status_code for each in answers] == [201, 200, 200, 200, 201, 200]


def test_one_workspaces_events_keep_no_other_waiting(
    context: Context, stranger: ApiClient, alice: Tenant, charlie: Tenant
) -> None:
    with _event_under_way(context, alice):
        assert stranger.post(f"/v1/keys/{charlie.key_id}/revoke").status_code == 200
