"""The primary is killed under load and its standby promoted: whatever was answered with a 2xx is stored, and once."""

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
from flask import Flask

from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from app.database.migrate import migrate
from app.database.owner import Owner
from app.factory import create_app
from app.maintenance.schedule import TASKS
from app.worker import create_celery
from tests.support.celery_processes import tick_until, worker
from tests.support.databases import SECRET_KEY, close
from tests.support.following import FEED
from tests.support.live import LiveServer, live_server
from tests.support.logging_left_alone import logging_left_alone
from tests.support.people import Tenant, make_tenant
from tests.support.sending import PATH, event_for
from tests.support.standby import Pair, ask, primary_and_standby
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.broker]

_BATCH_EVENTS: Final = 20
_SENDERS: Final = 6
_FOLD_USAGE: Final = next(task for task in TASKS if task.name == "fold_usage")


@dataclass
class _Load:
    """Producers that repeat an event or a batch, with its key, until it is answered with a 2xx, and a follower."""

    server: LiveServer
    tenant: Tenant
    is_over: threading.Event = field(default_factory=threading.Event)
    answered: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)
    statuses: set[int] = field(default_factory=set)
    followed: list[str] = field(default_factory=list)
    cursor: str = "start"

    def send_until_over(self, sender: int) -> None:
        n = 0
        while not self.is_over.is_set():
            n += 1
            names = [f"{sender}-{n}-{part}" for part in range(_BATCH_EVENTS if sender == 0 else 1)]
            self._send(names, f"{sender}-{n}")

    def _send(self, names: list[str], key: str) -> None:
        events: list[Any] = [event_for(self.tenant, event_id=name) for name in names]
        is_batch = len(events) > 1
        body = json.dumps({"events": events} if is_batch else events[0]).encode()
        headers = {"X-API-Key": self.tenant.key, "Idempotency-Key": key, "Content-Type": "application/json"}
        while not self.is_over.is_set():
            with suppress(OSError, HTTPException):
                answer = self.server.request("POST", f"{PATH}/batch" if is_batch else PATH, body, headers)
                self.statuses.add(answer.status)
                if answer.status in (200, 201):
                    verdicts = json.loads(answer.body)["verdicts"] if is_batch else []
                    assert {verdict["status"] for verdict in verdicts} <= {"stored", "duplicate"}
                    self.answered += names
                    return
        self.given_up += names

    def follow_once(self) -> bool:
        """Read the next page; returns whether it shows any event, or cannot be read."""
        path = f"{FEED}?project_id={self.tenant.project_id}&cursor={self.cursor}&wait=1"
        answer = self.server.request("GET", path, headers=self.tenant.bearer)
        self.statuses.add(answer.status)
        if answer.status != 200:
            return True
        page = json.loads(answer.body)
        self.followed += [event["event_id"] for event in page["data"]]
        self.cursor = page["next_cursor"]
        return bool(page["data"])

    def follow_until_over(self) -> None:
        while not self.is_over.is_set():
            self.follow_once()

    def count(self) -> int | None:
        """How many events are counted, on the standby or the primary; None if neither can say."""
        path = f"/v1/events/counts?project_id={self.tenant.project_id}"
        answer = self.server.request("GET", path, headers=self.tenant.bearer)
        self.statuses.add(answer.status)
        return int(json.loads(answer.body)["total"]) if answer.status == 200 else None

    def count_until_over(self) -> None:
        while not self.is_over.is_set():
            self.count()

    def go_on(self) -> None:
        """Wait until some more are answered and followed."""
        answered, followed = len(self.answered), len(self.followed)
        wait_until(lambda: len(self.answered) > answered + 200 and len(self.followed) > followed + 100)


@contextmanager
def _load(server: LiveServer, tenant: Tenant) -> Iterator[_Load]:
    load = _Load(server, tenant)
    threads = [threading.Thread(target=load.send_until_over, args=(n,)) for n in range(_SENDERS)]
    threads += [threading.Thread(target=load.follow_until_over), threading.Thread(target=load.count_until_over)]
    for thread in threads:
        thread.start()
    try:
        load.go_on()
        yield load
    finally:
        load.is_over.set()
        for thread in threads:
            thread.join()


@pytest.fixture(name="pair")
def _pair() -> Iterator[Pair]:
    with primary_and_standby() as pair:
        ask(pair.primary, "ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        ask(pair.primary, "SELECT pg_reload_conf()")
        wait_until(lambda: ask(pair.primary, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"))
        yield pair


@pytest.fixture(name="app")
def _app(pair: Pair, broker_url: str, credentials: Credentials) -> Iterator[Flask]:
    settings = Settings(
        database_url=pair.url("lariba_app"),
        admin_database_url=pair.url("lariba_owner"),
        read_database_url=pair.standby.url("lariba_app", "lariba"),
        broker_url=broker_url,
        secret_key=(SECRET_KEY,),
        log_level="CRITICAL",
        management_token_requests_per_second=None,
    )
    migrate(settings)
    with logging_left_alone():
        app = create_app(settings, credentials=credentials)
        yield app
        close(app.extensions[EXTENSION].database)


def _kill(pair: Pair) -> None:
    postmaster = psutil.Process(pair.primary.pid)
    processes = [postmaster, *postmaster.children(recursive=True)]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    pair.primary.kill()


def test_a_primary_that_is_killed_under_load_loses_and_doubles_nothing_when_its_standby_is_promoted(
    app: Flask, pair: Pair, checkout: Path
) -> None:
    context: Context = app.extensions[EXTENSION]
    settings, dana = context.settings, make_tenant(context)
    with ExitStack() as stack:
        server = stack.enter_context(live_server(settings, checkout, workers=2))
        stack.enter_context(worker(settings, checkout))
        celery = create_celery(settings)
        stack.callback(celery.close)
        tick_until(celery, [_FOLD_USAGE.celery_name], lambda: _last_fold(pair.primary))
        with _load(server, dana) as load:
            _kill(pair)
            wait_until(lambda: 503 in load.statuses)
            assert server.request("GET", "/readyz").status == 503
            assert ask(pair.standby, "SELECT pg_promote()")
            load.go_on()
            wait_until(lambda: server.request("GET", "/readyz").status == 200)
        while load.follow_once():
            pass
        counted = load.count()
        # The worker had its connections to the old primary, too.
        before = _last_fold(pair.standby)
        tick_until(celery, [_FOLD_USAGE.celery_name], lambda: _last_fold(pair.standby) > before)
    with Owner(settings.admin_database_url).connection() as owner:
        rows = owner.execute("SELECT event_id FROM events WHERE source_id = %s", (dana.source_row,)).fetchall()
    stored = [str(row[0]) for row in rows]

    assert load.statuses <= {200, 201, 503}
    assert len(stored) == len(set(stored))
    assert set(load.answered) <= set(stored)
    assert set(stored) - set(load.answered) <= set(load.given_up)
    assert sorted(load.followed) == sorted(stored)
    assert counted == len(stored)


def _last_fold(server: Any) -> Any:
    return ask(server, "SELECT max(succeeded_at) FROM maintenance_tasks WHERE name = 'fold_usage'")
