"""Usage equals the events, key by key, whatever is killed: web processes and folding workers die with SIGKILL at random
while events stream and keys are issued, rotated and revoked."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from app.database.migrate import migrate
from app.factory import create_app
from app.maintenance.usage import fold_usage
from tests.support.databases import close, fresh_database
from tests.support.live import LiveServer, eldest_of_two_workers, environment_of, live_server
from tests.support.logging_left_alone import logging_left_alone
from tests.support.operating import ApiClient, api_of
from tests.support.people import Tenant, make_tenant, rows
from tests.support.sending import PATH
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.wiring, pytest.mark.slow]

_SENDERS = 8
_ROUNDS = 5
_EVENTS_PER_ROUND = 100
# Nobody may listen for a while: producers that ask again at once would keep the processes from starting.
_AGAIN_SECONDS = 0.05

# A worker that folds without a pause, a few rows at a time, so that most moments to kill it are in the middle.
_FOLD_ON = """
import sys
from contextlib import suppress
from app.database.engine import Database
from app.errors import StorageUnavailable
from app.maintenance.usage import fold_usage

database = Database(sys.argv[1], pool_size=1, application_name="lariba-worker")
while True:
    with suppress(StorageUnavailable):  # it waited too long for the other one's rows, and is tried again
        fold_usage(database, batch_rows=7)
"""


@dataclass
class _Fire:
    """Producers who send with whatever keys there are, and what they were answered."""

    server: LiveServer
    keys: list[tuple[str, str]]
    """Source ids and their keys' plain texts; a key that is refused leaves."""
    is_over: threading.Event = field(default_factory=threading.Event)
    accepted: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)

    def send_until_over(self, sender: int) -> None:
        chance = random.Random(sender)
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        with closing(connection):
            n = 0
            while not self.is_over.is_set():
                n += 1
                self._send(connection, f"{sender}-{n}", chance.choice(tuple(self.keys)))

    def _send(self, connection: HTTPConnection, event_id: str, key: tuple[str, str]) -> None:
        event = {"event_id": event_id, "event_type": "a", "source_id": key[0], "payload": {"n": event_id}}
        headers = {"X-API-Key": key[1], "Idempotency-Key": event_id, "Content-Type": "application/json"}
        while not self.is_over.is_set():
            try:
                connection.request("POST", PATH, json.dumps(event), headers)
                response = connection.getresponse()
                response.read()
            except (OSError, HTTPException):
                connection.close()
                self.unanswered.append(event_id)
                self.is_over.wait(_AGAIN_SECONDS)
                continue
            if response.status in (200, 201):
                self.accepted.append(event_id)
                return
            if response.status == 401:
                self.refused.append(event_id)
                with contextlib.suppress(ValueError):
                    self.keys.remove(key)
                return

    def go_on(self, events: int) -> None:
        accepted = len(self.accepted)
        wait_until(lambda: len(self.accepted) >= accepted + events)


@pytest.fixture(scope="module", name="app")
def _app(server_url: str, credentials: Credentials) -> Iterator[Flask]:
    """An installation of this file's own: whatever lies in its tables is this file's doing."""
    with logging_left_alone(), fresh_database(server_url) as fresh:
        settings = replace(fresh, database_pool_size=4, log_level="CRITICAL")
        migrate(settings)
        app = create_app(settings, credentials=credentials)
        yield app
        close(app.extensions[EXTENSION].database)


@pytest.fixture(scope="module", name="context")
def _context(app: Flask) -> Context:
    context: Context = app.extensions[EXTENSION]
    return context


@pytest.fixture(name="server")
def _server(context: Context, checkout: Path) -> Iterator[LiveServer]:
    with live_server(context.settings, checkout, workers=2) as server:
        yield server


def test_usage_equals_the_events_whatever_was_killed(
    app: Flask, context: Context, server: LiveServer, checkout: Path
) -> None:
    chance = random.Random()
    tenants = [make_tenant(context) for _ in range(2)]
    apis = [api_of(app, tenant) for tenant in tenants]
    sources = [(api, source) for api, tenant in zip(apis, tenants, strict=True) for source in _sources(api, tenant)]
    issued = [(api, *_issue(api, source)) for api, source in sources]
    fire = _Fire(server, [(source, plain) for _, source, _, plain in issued])

    with _folding(context.settings, checkout) as folders, _burning(fire):
        for _ in range(_ROUNDS):
            fire.go_on(_EVENTS_PER_ROUND + chance.randrange(_EVENTS_PER_ROUND))
            eldest_of_two_workers(server).kill()
            folders.kill_one(chance)
            for api in apis:
                _check_at_this_moment(context, api, tenants[apis.index(api)])
            api, source = chance.choice(sources)
            issued.append((api, *_issue(api, source)))
            fire.keys.append((source, issued[-1][3]))
            api, source, old, _ = issued.pop(chance.randrange(len(issued)))
            successor = api.made(f"/v1/keys/{old}/rotate", {"grace_seconds": chance.choice([0, 60])})
            issued.append((api, source, successor["id"], successor["key"]))
            fire.keys.append((source, successor["key"]))
            revoked = issued.pop(0)
            assert revoked[0].post(f"/v1/keys/{revoked[2]}/revoke").status_code == 200
    _stop(server, context)

    for api, tenant in zip(apis, tenants, strict=True):
        _audit(context, api, tenant)
    fold_usage(context.database)
    for api, tenant in zip(apis, tenants, strict=True):
        _audit(context, api, tenant)
        _audit_moments(context, tenant)
    # A refusal may be lost with its process; it is never counted twice.
    counted = sum(_total(api)["rejected"].get("invalid_source_key", 0) for api in apis)
    assert counted <= len(fire.refused) + len(fire.unanswered)
    assert len(fire.accepted) >= _ROUNDS * _EVENTS_PER_ROUND


def _sources(api: ApiClient, tenant: Tenant) -> list[str]:
    """Three sources in two projects."""
    other = api.made("/v1/projects", {"name": "other"})["id"]
    environments = api.all_of(f"/v1/projects/{other}/environments")
    new = {"name": "erp", "type": "erp"}
    paths = [f"/v1/environments/{one}/sources" for one in (tenant.environment_id, environments[0]["id"])]
    return [tenant.source_id, *(api.made(path, new)["id"] for path in paths)]


def _issue(api: ApiClient, source_id: str) -> tuple[str, str, str]:
    """Of a new key the source's id, its own, and its plain text."""
    key = api.made(f"/v1/sources/{source_id}/keys", {})
    return source_id, key["id"], key["key"]


def _total(api: ApiClient) -> dict[str, Any]:
    usage = api.get("/v1/usage").json
    assert usage is not None
    total = usage["total"]
    assert isinstance(total, dict)
    return total


_EVENTS = "SELECT count(*) AS events FROM events WHERE workspace_id = :id"


def _check_at_this_moment(context: Context, api: ApiClient, tenant: Tenant) -> None:
    """While all goes on: not fewer than there were before it was asked, not more than there are after."""
    before = rows(context, _EVENTS, id=tenant.workspace_row)[0].events
    stored = _total(api)["stored"]
    after = rows(context, _EVENTS, id=tenant.workspace_row)[0].events

    assert before <= stored <= after


def _audit(context: Context, api: ApiClient, tenant: Tenant) -> None:
    """Key by key, source by source, project by project and in all: as many as there are events."""
    tables = {"key": ("source_keys", "source_key_id"), "source": ("sources", "source_id")}
    tables["project"] = ("projects", "project_id")
    for group_by, (table, column) in tables.items():
        usage = api.get("/v1/usage", group_by=group_by).json
        assert usage is not None
        shown: dict[str, int] = {}
        for each in usage["data"]:
            shown[each[f"{group_by}_id"]] = shown.get(each[f"{group_by}_id"], 0) + each["stored"]
        stored = rows(
            context,
            f"SELECT it.public_id AS id, count(events.event_uid) AS events FROM {table} AS it"
            f" LEFT JOIN events ON events.{column} = it.id WHERE it.workspace_id = :id GROUP BY 1",
            id=tenant.workspace_row,
        )
        assert {row.id: row.events for row in stored if row.events} == {it: n for it, n in shown.items() if n}
    (all_of_it,) = rows(
        context,
        "SELECT count(*) AS events, coalesce(sum(length(payload::text)), 0) AS bytes FROM events"
        " WHERE workspace_id = :id",
        id=tenant.workspace_row,
    )
    assert _total(api)["stored"] == all_of_it.events
    assert _total(api)["payload_bytes"] == all_of_it.bytes


def _audit_moments(context: Context, tenant: Tenant) -> None:
    """Each key's first use is its first event, and its last one no earlier than its last event."""
    for key in rows(
        context,
        "SELECT key.first_used_at, key.last_used_at, min(received_at) AS first, max(received_at) AS last"
        " FROM source_keys AS key JOIN events ON events.source_key_id = key.id WHERE key.workspace_id = :id"
        " GROUP BY key.id",
        id=tenant.workspace_row,
    ):
        assert key.first_used_at == key.first
        assert key.last_used_at >= key.last


@contextmanager
def _burning(fire: _Fire) -> Iterator[None]:
    senders = [threading.Thread(target=fire.send_until_over, args=(n,)) for n in range(_SENDERS)]
    for sender in senders:
        sender.start()
    try:
        yield
    finally:
        fire.is_over.set()
        for sender in senders:
            sender.join()


class _Folders:
    """Two workers that fold all the time; one that is killed is replaced."""

    def __init__(self, settings: Settings, checkout: Path) -> None:
        self._settings = settings
        self._checkout = checkout
        self.processes = [self._start() for _ in range(2)]

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", _FOLD_ON, self._settings.database_url]
        return subprocess.Popen(
            command, cwd=self._checkout, env=environment_of(self._settings), stdout=subprocess.DEVNULL
        )

    def kill_one(self, chance: random.Random) -> None:
        n = chance.randrange(len(self.processes))
        assert self.processes[n].poll() is None, "a worker ended by itself"
        self.processes[n].kill()
        self.processes[n].wait()
        self.processes[n] = self._start()


@contextmanager
def _folding(settings: Settings, checkout: Path) -> Iterator[_Folders]:
    folders = _Folders(settings, checkout)
    try:
        yield folders
    finally:
        for process in folders.processes:
            process.kill()
            process.wait()


def _stop(server: LiveServer, context: Context) -> None:
    """Kill the whole server; what it had handed to PostgreSQL may still be on its way to being committed."""
    os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait()
    wait_until(lambda: not rows(context, _AT_WORK))


_AT_WORK = (
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle'"
    " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
)
