"""The same application under each web server: granian answers later and keeps no thread waiting, others wait."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import granian.server.mp
import pytest

from app.config import Settings
from app.context import Context
from app.locks import exclude_workspace
from tests.live import LiveServer, environment_of, free_port, is_ready, live_server
from tests.people import Tenant, events_of, rows
from tests.sending import PATH, event_for
from tests.waiting import wait_until

pytestmark = pytest.mark.wiring

_WAITING = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


def test_granian_still_has_what_answers_later_is_built_on() -> None:
    assert callable(vars(granian.server.mp)["_wsgi_call_wrap"])


def test_events_that_wait_for_their_commit_keep_no_thread_of_granian(
    settings: Settings, checkout: Path, house: Context, alice: Tenant
) -> None:
    with live_server(settings, checkout, workers=1, threads=2) as server, ThreadPoolExecutor(20) as senders:
        assert _send(server, alice) == 201
        with house.database.transaction() as session:
            exclude_workspace(session, alice.workspace_row)
            answers = [senders.submit(_send, server, alice) for _ in range(20)]
            wait_until(lambda: rows(house, _WAITING))
            assert server.request("GET", "/healthz").status == 200
            assert not any(answer.done() for answer in answers)

        assert {answer.result() for answer in answers} == {201}


@contextlib.contextmanager
def _gunicorn(settings: Settings, checkout: Path) -> Iterator[LiveServer]:
    """Two processes forked from one that has loaded the application already."""
    port = free_port()
    command = ["-m", "gunicorn", "--preload", "--workers", "2", "--threads", "8", "--bind", f"127.0.0.1:{port}"]
    process = subprocess.Popen(
        [sys.executable, *command, "--log-level", "error", "wsgi:app"],
        cwd=checkout,
        env=environment_of(settings),
        start_new_session=True,
    )
    server = LiveServer(port, process)
    try:
        wait_until(lambda: is_ready(server))
        yield server
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_gunicorn_with_a_preloaded_application_stores_and_replays(
    settings: Settings, checkout: Path, house: Context, alice: Tenant
) -> None:
    with _gunicorn(settings, checkout) as server, ThreadPoolExecutor(16) as senders:
        statuses = list(senders.map(lambda n: _send(server, alice, f"e{n % 100}"), range(200)))

    assert set(statuses) <= {200, 201}
    assert len(events_of(house, alice)) == 100


def _send(server: LiveServer, tenant: Tenant, event_id: str | None = None) -> int:
    body = json.dumps(event_for(tenant, event_id=event_id)).encode()
    headers = {"X-API-Key": tenant.key, "Content-Type": "application/json"}
    return server.request("POST", PATH, body, headers).status
