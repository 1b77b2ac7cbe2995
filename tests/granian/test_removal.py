"""The adapter can be switched off and deleted: the product then serves by WSGI, or says in one line what to start."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from app.config import Settings
from app.context import Context
from tests.support.live import LiveServer, environment_of, free_port, gunicorn_server, live_server
from tests.support.people import Tenant, events_of
from tests.support.sending import PATH, event_for
from tests.support.waiting import wait_until

pytestmark = pytest.mark.wiring

_END_SECONDS_MAX = 60.0
# The setting and the gauge have granian in their names.
_MAY_NAME_GRANIAN = {"config.py", "metrics.py"}


@pytest.fixture(name="without_adapter")
def _without_adapter(checkout: Path, tmp_path: Path) -> Path:
    """A copy of the checkout in which app/granian was deleted."""
    shutil.copytree(checkout / "app", tmp_path / "app", ignore=shutil.ignore_patterns("granian", "__pycache__"))
    shutil.copytree(checkout / "migrations", tmp_path / "migrations")
    shutil.copy(checkout / "wsgi.py", tmp_path)
    return tmp_path


def _said_at_the_end(settings: Settings, checkout: Path, interface: str, target: str) -> list[str]:
    """What granian's worker says of the product when it cannot start."""
    command = ["-m", "granian", "--interface", interface, "--port", str(free_port()), "--log-level", "error", target]
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=checkout,
        env=environment_of(settings),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            _, said = process.communicate(timeout=_END_SECONDS_MAX)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return [line for line in said.splitlines() if line.startswith("lariba: ")]


def _send(server: LiveServer, tenant: Tenant) -> int:
    body = json.dumps(event_for(tenant)).encode()
    return server.request("POST", PATH, body, {"X-API-Key": tenant.key, "Content-Type": "application/json"}).status


@pytest.mark.slow
def test_without_the_package_wsgi_serves_under_another_server(
    settings: Settings, without_adapter: Path, context: Context, alice: Tenant
) -> None:
    with gunicorn_server(settings, without_adapter) as server:
        assert _send(server, alice) == 201
        assert server.request("GET", "/v1/projects", headers=alice.bearer).status == 200

    assert len(events_of(context, alice)) == 1


@pytest.mark.parametrize(("interface", "target"), [("rsgi", "wsgi:rsgi"), ("wsgi", "wsgi:app")])
@pytest.mark.slow
def test_without_the_package_granian_is_refused_because_its_wsgi_takes_cut_bodies_for_whole(
    settings: Settings, without_adapter: Path, interface: str, target: str
) -> None:
    (line,) = _said_at_the_end(settings, without_adapter, interface, target)

    assert "app/granian" in line
    assert "start wsgi:app under another WSGI server" in line


@pytest.mark.slow
def test_switched_off_the_adapter_does_not_start_and_a_line_says_what_to_start(
    settings: Settings, checkout: Path
) -> None:
    (line,) = _said_at_the_end(replace(settings, granian_adapter="off"), checkout, "rsgi", "wsgi:rsgi")

    assert line.startswith("lariba: LARIBA_GRANIAN_ADAPTER is off")
    assert "granian --interface wsgi" in line


@pytest.mark.slow
def test_switched_off_granians_wsgi_serves_and_monitoring_sees_no_adapter(
    settings: Settings, checkout: Path, alice: Tenant, capfd: pytest.CaptureFixture[str]
) -> None:
    with live_server(replace(settings, granian_adapter="off"), checkout, adapter=False) as server:
        assert _send(server, alice) == 201
        page = server.request("GET", "/metrics").body.decode()
        wait_until(lambda: "granian_without_adapter" in capfd.readouterr().err)

    assert re.search(r"^lariba_granian_adapters 0\.0$", page, re.MULTILINE)


def test_switched_on_monitoring_sees_it(live: LiveServer) -> None:
    page = live.request("GET", "/metrics").body.decode()

    assert re.search(r"^lariba_granian_adapters 1\.0$", page, re.MULTILINE)


def test_no_other_package_knows_granian(checkout: Path) -> None:
    files = [path for path in (checkout / "app").rglob("*.py") if path.parent.name != "granian"]
    guilty = {path.name for path in files if "granian" in _code_of(path).lower()}

    assert guilty <= _MAY_NAME_GRANIAN


def _code_of(path: Path) -> str:
    """Without comments and docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None
    return ast.dump(tree)
