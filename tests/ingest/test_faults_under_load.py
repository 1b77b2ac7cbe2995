"""Kill -9, restarts and shutdowns under load, each with an audit: whatever was answered with a 2xx is stored once."""

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psycopg
import pytest
from flask import Flask

from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from app.database.migrate import migrate
from app.factory import create_app
from local.postgres import EmbeddedPostgres
from tests.support.databases import SECRET_KEY, close
from tests.support.live import LiveServer, eldest_of_two_workers, live_server, make_known, workers_of
from tests.support.logging_left_alone import logging_left_alone
from tests.support.people import Tenant, make_tenant
from tests.support.sending import PATH
from tests.support.servers import ENDED
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

# The app's role sees a workspace at a time, or all if it says so.
_ALL_WORKSPACES = "-c lariba.all_workspaces=on"
_SENDERS = 16
# Nobody may listen for a while: producers that ask again at once would keep the processes from starting.
_AGAIN_SECONDS = 0.05


@dataclass
class _Load:
    """Producers as the docs ask them to be: each repeats an event, with its key, until it is answered with a 2xx."""

    server: LiveServer
    tenant: Tenant
    is_over: threading.Event = field(default_factory=threading.Event)
    answered: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)
    """Events whose last answer never came, because the load was over."""
    statuses: set[int] = field(default_factory=set)
    replayed: list[str] = field(default_factory=list)
    """Events that had been stored by a request that was never answered."""

    def send_until_over(self, sender: int) -> None:
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        with closing(connection):
            n = 0
            while not self.is_over.is_set():
                n += 1
                self._send_one(connection, f"{sender}-{n}")

    def go_on(self) -> None:
        """Wait until a few hundred more are answered."""
        answered = len(self.answered)
        wait_until(lambda: len(self.answered) > answered + 300)

    def _send_one(self, connection: HTTPConnection, event_id: str) -> None:
        event = {"event_id": event_id, "event_type": "a", "source_id": self.tenant.source_id, "payload": {}}
        headers = {
            "X-API-Key": self.tenant.key,
            "Idempotency-Key": event_id,
            "Content-Type": "application/json",
        }
        while True:
            try:
                connection.request("POST", PATH, json.dumps(event), headers)
            except OSError:
                connection.close()
            else:
                try:
                    response = connection.getresponse()
                    response.read()
                except (OSError, HTTPException):
                    connection.close()
                else:
                    self.statuses.add(response.status)
                    if response.status in (200, 201):
                        self.answered.append(event_id)
                        self.replayed += [event_id] if response.getheader("Idempotent-Replayed") else []
                        return
            if self.is_over.wait(_AGAIN_SECONDS):
                self.given_up.append(event_id)
                return


@contextmanager
def _load(server: LiveServer, tenant: Tenant) -> Iterator[_Load]:
    make_known(server, tenant.key, workers=2)
    load = _Load(server, tenant)
    senders = [threading.Thread(target=load.send_until_over, args=(n,)) for n in range(_SENDERS)]
    for sender in senders:
        sender.start()
    try:
        load.go_on()
        yield load
    finally:
        load.is_over.set()
        for sender in senders:
            sender.join()


@pytest.fixture(scope="module", name="postgres")
def _postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of this file's own, which it may kill."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("faults") / "data") as server:
        yield server


@pytest.fixture(scope="module", name="app")
def _app(postgres: EmbeddedPostgres, credentials: Credentials) -> Iterator[Flask]:
    settings = Settings(
        database_url=postgres.url("lariba_app", "lariba"),
        admin_database_url=postgres.url("lariba_owner", "lariba"),
        broker_url="memory://",
        secret_key=(SECRET_KEY,),
        log_level="CRITICAL",
    )
    migrate(settings)
    with logging_left_alone():
        app = create_app(settings, credentials=credentials)
        yield app
        close(_context(app).database)


@pytest.fixture(name="dana")
def _dana(app: Flask) -> Tenant:
    return make_tenant(_context(app))


@pytest.fixture(name="server")
def _server(app: Flask, checkout: Path) -> Iterator[LiveServer]:
    """Two web processes that come back when they are killed."""
    with live_server(_context(app).settings, checkout, workers=2) as server:
        yield server


def test_kill_9_of_web_processes_under_load(server: LiveServer, app: Flask, dana: Tenant) -> None:
    with _load(server, dana) as load:
        for _ in range(3):
            eldest_of_two_workers(server).kill()
            load.go_on()

    _audit(app, load)


def test_postgresql_stopped_in_immediate_mode_under_load(
    server: LiveServer, app: Flask, dana: Tenant, postgres: EmbeddedPostgres
) -> None:
    with _load(server, dana) as load:
        for _ in range(2):
            postgres.stop(immediate=True)
            postgres.start()
            load.go_on()

    _audit(app, load)
    assert load.statuses <= {200, 201, 503}


def test_sessions_killed_under_load(server: LiveServer, app: Flask, dana: Tenant, postgres: EmbeddedPostgres) -> None:
    with _load(server, dana) as load:
        for _ in range(5):
            with psycopg.connect(postgres.url("postgres", "postgres"), autocommit=True) as superuser:
                superuser.execute(f"SELECT {ENDED} FROM pg_stat_activity WHERE usename = 'lariba_app'")
            load.go_on()

    _audit(app, load)
    assert load.statuses <= {200, 201}


def test_a_session_that_hangs_in_its_transaction_stops_only_who_needs_its_keys(
    server: LiveServer, app: Flask, dana: Tenant
) -> None:
    """As a client under SIGSTOP leaves it. (One stopped inside PostgreSQL may hold a page that all others need.)"""
    with (
        _load(server, dana) as load,
        psycopg.connect(_context(app).settings.database_url, options=_ALL_WORKSPACES) as hanging,
    ):
        hanging.execute(
            "INSERT INTO event_ledger SELECT %s, %s, %s, '0-' || n, gen_random_uuid(), '', now()"
            " FROM generate_series(1, 100000) AS n ON CONFLICT DO NOTHING",
            (dana.project_row, dana.source_row, dana.workspace_row),
        )
        wait_until(lambda: 409 in load.statuses)
        for _ in range(5):
            load.go_on()
        hanging.rollback()
        load.go_on()

    _audit(app, load)
    assert load.statuses == {201, 409}


def test_a_shutdown_under_load_answers_all_that_it_admitted(server: LiveServer, app: Flask, dana: Tenant) -> None:
    with _load(server, dana) as load:
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(timeout=20)

    assert load.statuses == {201}
    assert _audit(app, load) == set(load.answered)


def test_a_rolling_restart_under_load_loses_no_request(server: LiveServer, app: Flask, dana: Tenant) -> None:
    with _load(server, dana) as load:
        before = set(workers_of(server))
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(now := set(workers_of(server))) == 2 and not before & now)

    assert not load.replayed
    assert load.statuses == {201}
    _audit(app, load)


def _audit(app: Flask, load: _Load) -> set[str]:
    """What is stored: each answered event, once; beyond them only what was sent and given up; nothing else."""
    settings = _context(app).settings
    with psycopg.connect(settings.admin_database_url) as owner:
        stored = [
            row[0]
            for row in owner.execute("SELECT event_id FROM events WHERE source_id = %s", (load.tenant.source_row,))
        ]
    assert len(stored) == len(set(stored))
    assert len(load.answered) == len(set(load.answered))
    assert set(load.answered) <= set(stored)
    assert set(stored) - set(load.answered) <= set(load.given_up)
    return set(stored)


def _context(app: Flask) -> Context:
    context: Context = app.extensions[EXTENSION]
    return context
