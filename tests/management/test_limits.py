"""How much of a process the management API may take, and how fast a token and a workspace may ask."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
from flask import Flask
from sqlalchemy import text

from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from app.database.engine import TenantScope
from app.factory import create_app
from tests.support.databases import close
from tests.support.live import LiveServer, live_server
from tests.support.operating import ApiClient, api_of, at_once, colleague_of
from tests.support.people import Tenant, rows
from tests.support.sending import error_of, event_for, send
from tests.support.servers import OUR_LOCKS
from tests.support.waiting import wait_until

MakeApp = Callable[..., Flask]
_POOL = 9  # three for management, of them two for one workspace
# Kept to the end: the threads of an application open connections anew, which stay open when it is collected.
_MADE: list[Flask] = []


@pytest.fixture(name="app_with")
def _app_with(settings: Settings, credentials: Credentials) -> Iterator[MakeApp]:
    def make(**changed: object) -> Flask:
        app = create_app(replace(settings, **changed), credentials=credentials)  # type: ignore[arg-type]
        # The second in which a test asks is never over, however slow the machine is.
        app.extensions[EXTENSION].management.rate_limiter._clock = lambda: 0.0  # noqa: SLF001
        _MADE.append(app)
        return app

    yield make
    for app in _MADE:
        close(app.extensions[EXTENSION].database)


def _statuses(api: ApiClient, requests: int) -> list[int]:
    return [api.get("/v1/workspace").status_code for _ in range(requests)]


class TestRate:
    def test_a_token_above_its_rate_is_refused_with_retry_after(self, app_with: MakeApp, alice: Tenant) -> None:
        api = api_of(app_with(management_token_requests_per_second=1), alice)
        first = api.get("/v1/workspace")

        refused = [api.get("/v1/workspace"), api.post("/v1/projects", {"name": "x"})]

        assert first.headers["RateLimit-Policy"] == '"token";q=1;w=1'
        assert first.headers["RateLimit"] == '"token";r=0;t=1'
        for each in refused:
            assert each.status_code == 429
            assert error_of(each)["code"] == "rate_limit_exceeded"
            assert error_of(each)["retryable"] is True
            assert error_of(each)["message"].startswith("This management token may send 1 requests per second")
            assert each.headers["RateLimit-Policy"] == '"token";q=1;w=1'
            assert each.headers["Retry-After"] == "1"

    def test_another_token_of_the_workspace_has_a_rate_of_its_own(
        self, app_with: MakeApp, context: Context, alice: Tenant
    ) -> None:
        app = app_with(management_token_requests_per_second=3)
        bob = colleague_of(app, context, alice)

        assert _statuses(api_of(app, alice), 5)[-1] == 429
        assert _statuses(bob, 1) == [200]

    def test_all_tokens_of_a_workspace_have_one_together_and_other_workspaces_have_theirs(
        self, app_with: MakeApp, context: Context, alice: Tenant, charlie: Tenant
    ) -> None:
        app = app_with(management_workspace_requests_per_second=3)
        bob = colleague_of(app, context, alice)
        assert _statuses(api_of(app, alice), 5)[-1] == 429

        refused = bob.get("/v1/workspace")

        assert refused.status_code == 429
        assert error_of(refused)["message"].startswith("This workspace may send 3 requests per second")
        assert _statuses(api_of(app, charlie), 1) == [200]

    def test_what_a_workspace_has_used_up_keeps_no_emergency_waiting(
        self, app_with: MakeApp, context: Context, alice: Tenant
    ) -> None:
        app = app_with(management_workspace_requests_per_second=1)
        bob = colleague_of(app, context, alice)
        assert _statuses(api_of(app, alice), 3)[-1] == 429

        emergency = [
            bob.post(f"/v1/sources/{alice.source_id}/disable"),
            bob.post(f"/v1/keys/{alice.key_id}/revoke"),
            bob.post(f"/v1/tokens/{alice.token_id}/revoke"),
        ]

        assert [each.status_code for each in emergency] == [200] * 3
        assert bob.get("/v1/workspace").status_code == 429

    def test_a_caller_without_a_token_of_ours_uses_nothing_of_it(self, app_with: MakeApp, alice: Tenant) -> None:
        app = app_with(management_token_requests_per_second=1)
        forged = alice.token[:-1] + ("0" if alice.token[-1] != "0" else "1")

        assert [ApiClient(app.test_client(), forged).get("/v1/workspace").status_code for _ in range(5)] == [401] * 5
        assert api_of(app, alice).get("/v1/workspace").status_code == 200

    def test_it_takes_nothing_of_what_the_workspaces_keys_may_send(self, app_with: MakeApp, alice: Tenant) -> None:
        app = app_with(management_workspace_requests_per_second=1, workspace_events_per_second=2)
        _statuses(api_of(app, alice), 3)

        assert [send(app.test_client(), alice).status_code for _ in range(2)] == [201] * 2


class TestPool:
    @contextmanager
    def _all_that_management_has(self, app: Flask, tenants: tuple[Tenant, ...], context: Context) -> Iterator[None]:
        """Changes of these workspaces wait for a row, so many that they hold all connections that they may."""
        renames = [
            (api_of(app, tenant), f"/v1/projects/{tenant.project_id}", {"description": str(n)})
            for tenant in tenants
            for n in range(4)
        ]
        with ThreadPoolExecutor(len(renames)) as pool:
            with context.database.transaction(TenantScope.ALL) as session:
                session.execute(text("SELECT 1 FROM projects FOR UPDATE"))
                pending = [pool.submit(api.patch, path, body) for api, path, body in renames]
                most = min(3, 2 * len(tenants))
                wait_until(lambda: len(rows(context, f"SELECT 1 FROM {OUR_LOCKS} NOT granted")) >= most)
                yield
            for each in pending:
                each.result(timeout=20)

    def test_ingest_has_connections_however_busy_management_is(
        self, app_with: MakeApp, context: Context, alice: Tenant, charlie: Tenant
    ) -> None:
        app = app_with(database_pool_size=_POOL)
        client = app.test_client()
        api_of(app, alice).get("/v1/workspace")
        api_of(app, charlie).get("/v1/workspace")
        batch = {"events": [event_for(charlie)]}

        with self._all_that_management_has(app, (alice, charlie), context):
            stored = [client.post("/v1/events/ingest/batch", json=batch, headers={"X-API-Key": charlie.key})]

            assert [each.status_code for each in stored] == [200]
            assert client.get("/readyz").status_code == 200
            assert app.extensions[EXTENSION].database.engine.pool.checkedout() == 3

    def test_one_workspace_leaves_others_connections_and_itself_some_for_an_emergency(
        self, app_with: MakeApp, context: Context, alice: Tenant, charlie: Tenant
    ) -> None:
        app = app_with(database_pool_size=_POOL)
        bob = colleague_of(app, context, alice)
        waiting = "SELECT 1 FROM projects WHERE workspace_id = :id FOR UPDATE"

        with ThreadPoolExecutor(8) as pool:
            with context.database.transaction(TenantScope.ALL) as session:
                session.execute(text(waiting), {"id": alice.workspace_row})
                path = f"/v1/projects/{alice.project_id}"
                renames = [pool.submit(api_of(app, alice).patch, path, {"name": f"n{n}"}) for n in range(8)]
                wait_until(lambda: len(rows(context, f"SELECT 1 FROM {OUR_LOCKS} NOT granted")) >= 2)

                assert api_of(app, charlie).get("/v1/projects").status_code == 200
                assert bob.post(f"/v1/keys/{alice.key_id}/revoke").status_code == 200
            statuses = {rename.result(timeout=20).status_code for rename in renames}

        assert statuses <= {200, 503}
        assert 200 in statuses

    def test_a_stolen_token_that_sends_urgent_requests_all_the_time_delays_no_owner(
        self, app_with: MakeApp, context: Context, alice: Tenant
    ) -> None:
        app = app_with(database_pool_size=_POOL)
        bob = colleague_of(app, context, alice)
        held = text("SELECT 1 FROM sources WHERE workspace_id = :id FOR UPDATE")

        with ThreadPoolExecutor(8) as pool:
            with context.database.transaction(TenantScope.ALL) as session:
                session.execute(held, {"id": alice.workspace_row})
                path = f"/v1/sources/{alice.source_id}/disable"
                thefts = [pool.submit(api_of(app, alice).post, path) for _ in range(8)]
                wait_until(lambda: rows(context, f"SELECT 1 FROM {OUR_LOCKS} NOT granted"))
                wait_until(lambda: any(theft.done() for theft in thefts))  # no more of them may wait

                assert bob.post(f"/v1/tokens/{alice.token_id}/revoke").status_code == 200
            assert {theft.result(timeout=20).status_code for theft in thefts} <= {401, 503}

    def test_a_request_without_a_connection_in_time_is_refused_with_retry_after(
        self, app_with: MakeApp, context: Context, alice: Tenant
    ) -> None:
        app = app_with(database_pool_size=_POOL)
        api_of(app, alice).get("/v1/workspace")

        with self._all_that_management_has(app, (alice,), context):
            refused = api_of(app, alice).get("/v1/projects")

        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "1"
        assert "management API" in error_of(refused)["message"]


@pytest.fixture(name="server", scope="module")
def _server(settings: Settings, checkout: Path) -> Iterator[LiveServer]:
    limited = replace(settings, database_pool_size=16, management_token_requests_per_second=50)
    with live_server(limited, checkout, workers=2) as server:
        yield server


def test_64_keys_issued_at_once_refuse_no_batch_of_another_workspace(
    server: LiveServer, alice: Tenant, charlie: Tenant
) -> None:
    issuing = Event()
    json = {"Content-Type": "application/json"}

    def issue() -> int:
        issuing.set()
        path = f"/v1/sources/{alice.source_id}/keys"
        return server.request("POST", path, b"{}", {"Authorization": f"Bearer {alice.token}"} | json).status

    def store() -> int:
        line = ('{"event_type": "a", "source_id": "' + charlie.source_id + '", "payload": {}}').encode()
        headers = {"X-API-Key": charlie.key, "Content-Type": "application/x-ndjson"}
        return server.request("POST", "/v1/events/ingest/batch", line, headers).status

    assert store() == 200
    with ThreadPoolExecutor(65) as pool:
        issued = [pool.submit(issue) for _ in range(64)]
        assert issuing.wait(10)
        stored = [store() for _ in range(30)]
        statuses = {each.result() for each in issued}

    assert stored == [200] * 30
    assert 201 in statuses
    assert statuses <= {201, 429, 503}


def test_many_at_once_on_one_object_are_all_answered(app_with: MakeApp, alice: Tenant) -> None:
    api = api_of(app_with(database_pool_size=_POOL), alice)
    path = f"/v1/projects/{alice.project_id}"

    answers = at_once([lambda n=n: api.patch(path, {"description": f"{n}"}).status_code for n in range(20)])  # type: ignore[misc]

    assert answers == [200] * 20
