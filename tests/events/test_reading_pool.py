"""Reading has connections of its own: a workspace that holds all it may of them holds up its own reading alone."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
from flask import Flask

from app import factory
from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from tests.support.databases import close
from tests.support.operating import ApiClient, api_of
from tests.support.people import Tenant
from tests.support.sending import error_of, event_for, send

_CONNECTIONS = 3

_READS = [
    "/v1/events?project_id={project}",
    "/v1/events/{event}",
    "/v1/sources/{source}/events/e",
    "/v1/events/counts?project_id={project}",
    "/v1/events/feed?project_id={project}",
    "/v1/events/export?project_id={project}",
    "/v1/consumers/{consumer}/events",
]


@pytest.fixture(scope="module", name="app")
def _app(settings: Settings, credentials: Credentials) -> Iterator[Flask]:
    """With few connections, for which nobody waits long."""
    few = replace(settings, reading_pool_size=_CONNECTIONS, database_pool_size=4, storage_deadline_seconds=5.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory, "_WAIT_SECONDS", 0.01)
        app = factory.create_app(few, credentials=credentials)
    yield app
    close(app.extensions[EXTENSION].database)
    close(app.extensions[EXTENSION].reading)


@pytest.fixture(scope="module", name="context")
def _context(app: Flask) -> Context:
    context: Context = app.extensions[EXTENSION]
    return context


def _paths(api: ApiClient, tenant: Tenant) -> list[str]:
    """Every way to read the tenant's event "e"."""
    assert send(api.client, tenant, event_for(tenant, event_id="e")).status_code == 201
    stored = api.get(f"/v1/sources/{tenant.source_id}/events/e").json
    assert stored is not None
    consumer = f"of-{tenant.project_id}"
    assert api.call("PUT", f"/v1/consumers/{consumer}", {"project_id": tenant.project_id}).status_code == 201
    ids = {"project": tenant.project_id, "source": tenant.source_id, "event": stored["id"], "consumer": consumer}
    return [path.format(**ids) for path in _READS]


def test_a_workspace_that_holds_its_share_of_reading_is_refused_and_nobody_else_is(
    app: Flask, context: Context, alice: Tenant, charlie: Tenant
) -> None:
    greedy, other = api_of(app, alice), api_of(app, charlie)
    refused, served = _paths(greedy, alice), _paths(other, charlie)

    with ExitStack() as held:
        for _ in range(_CONNECTIONS - 1):
            held.enter_context(context.reading.transaction(alice.workspace_row))

        for path in refused:
            answer = greedy.call("GET", path)
            assert answer.status_code == 503, path
            error = error_of(answer)
            assert (error["code"], error["retryable"]) == ("storage_unavailable", True)
            assert error["message"] == "Too many queries are under way. Repeat the same one later."
            assert answer.headers["Retry-After"] == "1"
        assert send(greedy.client, alice).status_code == 201
        assert greedy.get("/v1/projects").status_code == 200
        assert {other.call("GET", path).status_code for path in served} == {200}

    assert {greedy.call("GET", path).status_code for path in refused} == {200}


def test_ingest_and_management_go_on_while_all_of_reading_is_held(
    app: Flask, context: Context, alice: Tenant, charlie: Tenant
) -> None:
    with ExitStack() as held:
        for holder in [alice] * (_CONNECTIONS - 1) + [charlie]:
            held.enter_context(context.reading.transaction(holder.workspace_row))

        for tenant in (alice, charlie):
            api = api_of(app, tenant)
            assert api.get("/v1/events", project_id=tenant.project_id).status_code == 503
            assert send(api.client, tenant).status_code == 201
            assert api.post("/v1/projects", {"name": "new"}).status_code == 201
