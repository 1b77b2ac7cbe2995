"""POST /v1/events/ingest while PostgreSQL is away: 503 in time, nothing stored, and service by itself afterwards."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from flask import Flask
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from app.database.dedicated_connection import DedicatedConnection
from app.database.engine import Database, TenantScope
from app.database.migrate import migrate
from app.factory import create_app
from local.postgres import EmbeddedPostgres
from tests.support.databases import SECRET_KEY, close
from tests.support.people import Tenant, events_of, make_tenant
from tests.support.sending import error_of, send
from tests.support.servers import ENDED


@pytest.fixture(scope="module", name="server")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of this file's own, which it may stop."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("outage") / "data") as server:
        yield server


@pytest.fixture(scope="module", name="app")
def _app(server: EmbeddedPostgres, credentials: Credentials) -> Iterator[Flask]:
    settings = Settings(
        database_url=server.url("lariba_app", "lariba"),
        admin_database_url=server.url("lariba_owner", "lariba"),
        broker_url="memory://",
        secret_key=(SECRET_KEY,),
        log_level="ERROR",
    )
    migrate(settings)
    app = create_app(settings, credentials=credentials)
    yield app
    close(app.extensions[EXTENSION].database)


@pytest.fixture(name="dana")
def _dana(app: Flask) -> Tenant:
    tenant = make_tenant(_context(app))
    assert send(app.test_client(), tenant).status_code == 201
    return tenant


@pytest.mark.parametrize("immediate", [False, True])
def test_a_stopped_database_means_503_and_service_resumes_with_the_first_request_after_it_is_back(
    app: Flask, server: EmbeddedPostgres, dana: Tenant, *, immediate: bool
) -> None:
    client = app.test_client()

    server.stop(immediate=immediate)
    away = send(client, dana, idempotency_key="k")
    ready_while_away = client.get("/readyz")
    alive_while_away = client.get("/healthz")
    server.start()
    back = send(client, dana, idempotency_key="k")

    _expect_unavailable(away)
    assert (ready_while_away.status_code, alive_while_away.status_code) == (503, 200)
    assert ready_while_away.json is not None
    assert ready_while_away.json["checks"]["database"] != "ok"
    assert (back.status_code, back.headers.get("Idempotent-Replayed")) == (201, None)
    assert len(events_of(_context(app), dana)) == 2


def test_a_key_that_is_not_verified_yet_gets_a_503_too(
    app: Flask, server: EmbeddedPostgres, dana: Tenant, credentials: Credentials
) -> None:
    server.stop()
    answer = send(app.test_client(), dana, key=credentials.mint("sk")[1])
    server.start()

    _expect_unavailable(answer)


@pytest.mark.parametrize("how", ["a cached key", "a key that is not cached", "a wrong body"])
def test_a_frozen_database_means_503_while_it_is_still_frozen(
    app: Flask, server: EmbeddedPostgres, dana: Tenant, credentials: Credentials, how: str
) -> None:
    key = credentials.mint("sk")[1] if how == "a key that is not cached" else None
    body = "not json" if how == "a wrong body" else None
    postmaster = psutil.Process(server.pid)
    frozen = [postmaster, *postmaster.children(recursive=True)]
    for process in frozen:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        answer = send(app.test_client(), dana, body, key=key, idempotency_key="k")
    finally:
        for process in frozen:
            os.kill(process.pid, signal.SIGCONT)

    _expect_unavailable(answer)
    assert send(app.test_client(), dana, idempotency_key="k").status_code == 201
    assert len(events_of(_context(app), dana)) == 2


def test_a_database_that_has_become_read_only_means_503_and_not_ready(
    app: Flask, server: EmbeddedPostgres, dana: Tenant
) -> None:
    """As after a failover to a standby, or when a provider has found the disk full."""
    with psycopg.connect(server.url("postgres", "postgres"), autocommit=True) as superuser:
        superuser.execute("ALTER ROLE lariba_app SET default_transaction_read_only = on")
        _hang_up(superuser)
        answer, ready = send(app.test_client(), dana), app.test_client().get("/readyz")
        superuser.execute("ALTER ROLE lariba_app RESET default_transaction_read_only")
        _hang_up(superuser)

    _expect_unavailable(answer)
    assert ready.status_code == 503
    assert ready.json is not None
    assert ready.json["checks"]["database"] == "read-only"
    assert send(app.test_client(), dana).status_code == 201


def _hang_up(superuser: psycopg.Connection[Any]) -> None:
    superuser.execute(f"SELECT {ENDED} FROM pg_stat_activity WHERE usename = 'lariba_app'")


@pytest.mark.parametrize("body", [None, "not json"])
@pytest.mark.parametrize("is_cached", [False, True])
def test_no_wait_on_the_ingest_path_is_longer_than_the_deadline(
    app: Flask, credentials: Credentials, monkeypatch: pytest.MonkeyPatch, *, body: str | None, is_cached: bool
) -> None:
    """Read from what each transaction is allowed, not from a clock."""
    tenant = make_tenant(_context(app))
    if is_cached:
        send(app.test_client(), tenant)
    allowed: list[float] = []
    transaction = Database.transaction

    def watched(
        database: Database, reach: int | TenantScope, *, deadline_seconds: float = 3600.0
    ) -> AbstractContextManager[Session]:
        if threading.current_thread().name != "rate-limits":  # it is not on the ingest path
            allowed.append(deadline_seconds)
        return transaction(database, reach, deadline_seconds=deadline_seconds)

    run = DedicatedConnection.run

    def watched_run(
        connection: DedicatedConnection, statement: str, parameters: Sequence[Any], deadline: float
    ) -> list[Any]:
        allowed.append(deadline - time.monotonic())
        return run(connection, statement, parameters, deadline)

    monkeypatch.setattr(Database, "transaction", watched)
    monkeypatch.setattr(DedicatedConnection, "run", watched_run)
    send(app.test_client(), tenant, body)

    assert len(allowed) == (1 if is_cached else 2)
    assert max(allowed) <= _context(app).settings.storage_deadline_seconds


def test_the_server_starts_while_the_database_is_away(
    app: Flask, server: EmbeddedPostgres, dana: Tenant, tmp_path: Path
) -> None:
    from app.database.migrate import require_head

    context = _context(app)
    server.stop()
    require_head(context.database.engine)
    server.start()

    assert send(app.test_client(), dana).status_code == 201


def _context(app: Flask) -> Context:
    context = app.extensions[EXTENSION]
    assert isinstance(context, Context)
    return context


def _expect_unavailable(response: TestResponse) -> None:
    assert response.status_code == 503
    error = error_of(response)
    assert (error["code"], error["retryable"]) == ("storage_unavailable", True)
    assert response.headers["Retry-After"] == "1"
