"""The same application under each web server: granian answers later and keeps no thread waiting, others wait."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.config import Settings
from app.context import Context
from app.database.advisory_locks import exclude_workspace
from app.database.engine import TenantScope
from tests.support.live import LiveServer, free_port, gunicorn_server, live_server, make_known
from tests.support.people import Tenant, events_of, rows
from tests.support.sending import PATH, event_for
from tests.support.servers import OUR_LOCKS
from tests.support.waiting import wait_until

pytestmark = pytest.mark.wiring

_WAITING = f"SELECT 1 FROM {OUR_LOCKS} locktype = 'advisory' AND NOT granted"


def test_events_that_wait_for_their_commit_keep_no_thread_of_granian(
    settings: Settings, checkout: Path, context: Context, alice: Tenant
) -> None:
    with live_server(settings, checkout) as server, ThreadPoolExecutor(20) as senders:
        assert _send(server, alice) == 201
        with context.database.transaction(TenantScope.ALL) as session:
            exclude_workspace(session, alice.workspace_row)
            answers = [senders.submit(_send, server, alice) for _ in range(20)]
            wait_until(lambda: rows(context, _WAITING))
            assert server.request("GET", "/healthz").status == 200
            assert not any(answer.done() for answer in answers)

        assert {answer.result() for answer in answers} == {201}


# An application that takes for ever to load, as wsgi.py does for a second.
_LOADS_FOR_EVER = """
from app.granian.signals import end_at_once_while_starting
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
    command = ["-m", "granian", "--interface", "rsgi", "--port", str(free_port()), "--workers-kill-timeout", "1800"]
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


@pytest.mark.slow
def test_gunicorn_with_a_preloaded_application_stores_and_replays(
    settings: Settings, checkout: Path, context: Context, alice: Tenant
) -> None:
    with gunicorn_server(settings, checkout) as server, ThreadPoolExecutor(16) as senders:
        make_known(server, alice.key, workers=2)
        statuses = list(senders.map(lambda n: _send(server, alice, f"e{n % 100}"), range(200)))

    assert set(statuses) <= {200, 201}
    assert len(events_of(context, alice)) == 100


def _send(server: LiveServer, tenant: Tenant, event_id: str | None = None) -> int:
    body = json.dumps(event_for(tenant, event_id=event_id)).encode()
    headers = {"X-API-Key": tenant.key, "Content-Type": "application/json"}
    return server.request("POST", PATH, body, headers).status
