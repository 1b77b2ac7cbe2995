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
from app.database import EVERYWHERE
from app.locks import exclude_workspace
from tests.live import LiveServer, environment_of, free_port, is_ready, live_server
from tests.people import Tenant, events_of, rows
from tests.sending import PATH, event_for
from tests.servers import OUR_LOCKS
from tests.waiting import wait_until

pytestmark = pytest.mark.wiring

_WAITING = f"SELECT 1 FROM {OUR_LOCKS} locktype = 'advisory' AND NOT granted"


def test_granian_still_has_what_answers_later_is_built_on() -> None:
    assert callable(vars(granian.server.mp)["_wsgi_call_wrap"])


def test_events_that_wait_for_their_commit_keep_no_thread_of_granian(
    settings: Settings, checkout: Path, house: Context, alice: Tenant
) -> None:
    with live_server(settings, checkout, workers=1, threads=2) as server, ThreadPoolExecutor(20) as senders:
        assert _send(server, alice) == 201
        with house.database.transaction(EVERYWHERE) as session:
            exclude_workspace(session, alice.workspace_row)
            answers = [senders.submit(_send, server, alice) for _ in range(20)]
            wait_until(lambda: rows(house, _WAITING))
            assert server.request("GET", "/healthz").status == 200
            assert not any(answer.done() for answer in answers)

        assert {answer.result() for answer in answers} == {201}


# An application that takes for ever to load, as wsgi.py does for a second.
_LOADS_FOR_EVER = """
from app.stop_signals import end_at_once_while_starting
end_at_once_while_starting()
import sys
print("loads", flush=True)
sys.stdin.buffer.raw.read(1)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_granian_that_is_stopped_while_its_workers_start_waits_for_none_of_them(
    checkout: Path, tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "loads_for_ever.py").write_text(_LOADS_FOR_EVER)
    command = ["-m", "granian", "--interface", "wsgi", "--port", str(free_port()), "--workers-kill-timeout", "1800"]
    with subprocess.Popen(
        [sys.executable, *command, "--log-level", "error", "loads_for_ever:app"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as granian_process:
        assert granian_process.stdout is not None
        try:
            assert granian_process.stdout.readline() == b"loads\n"
            granian_process.send_signal(number)
            granian_process.wait(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(granian_process.pid, signal.SIGKILL)


# The main thread of a child process waits for a lock when the signal is caught by another thread's C handler: for the
# main thread that is as if it had come in the moment before the wait.
_WAITS = """
import multiprocessing, signal, sys, threading
from app.stop_signals import hear_while_waiting

def wait():
    hear_while_waiting()
    heard = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: heard.set())
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    print("waits", flush=True)
    heard.wait()
    print("heard", flush=True)

child = multiprocessing.get_context("fork").Process(target=wait)
child.start()
sys.stdin.read(1)
child.terminate()
child.join(60)
child.kill()
"""


def test_a_stop_signal_that_comes_just_before_a_worker_waits_is_heard(checkout: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WAITS], cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waits\n"
        told, _ = process.communicate(b"1")

    assert told == b"heard\n"


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
