"""The wiring of production: web server, worker and beat as processes of their own, on a broker and a database.

Runs on the embedded servers, or on those that TEST_DATABASE_URL and TEST_BROKER_URL name.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.config import Settings
from tests.support.celery_processes import beat, worker
from tests.support.databases import fresh_database
from tests.support.live import Answer, LiveServer, environment_of, live_server
from tests.support.sending import PATH
from tests.support.waiting import wait_until

# The app's role sees a workspace at a time, or all if it says so.
_ALL_WORKSPACES = "-c lariba.all_workspaces=on"
pytestmark = [pytest.mark.wiring, pytest.mark.broker, pytest.mark.slow]


@pytest.fixture(scope="module", name="production")
def _production(server_url: str, broker_url: str, checkout: Path) -> Iterator[Settings]:
    """An installation as docs/operations.md makes it: migrated by the operator's shell."""
    with fresh_database(server_url) as fresh:
        settings = replace(fresh, broker_url=broker_url, database_pool_size=4)
        _flask(settings, checkout, "migrate")
        yield settings


@pytest.fixture(scope="module", name="web")
def _web(production: Settings, checkout: Path) -> Iterator[LiveServer]:
    with live_server(production, checkout, workers=2) as server:
        yield server


def test_from_an_empty_database_to_a_counted_event(production: Settings, web: LiveServer, checkout: Path) -> None:
    """The operator makes a workspace, a script its project, source and key; the key sends; the worker counts."""
    script = _Script(web, production, checkout)
    source, key = script.make_source()

    assert script.send(source, key).status == 201
    assert script.send(source, key).headers["idempotent-replayed"] == "true"
    with worker(production, checkout), beat(production, checkout):
        wait_until(lambda: script.manage("GET", f"/v1/keys/{key['id']}")["last_used_at"], 60)
    with psycopg.connect(production.database_url, options=_ALL_WORKSPACES) as connection:
        # A replay is folded when its attempt can come no more, two minutes later.
        assert connection.execute(_COUNTED, (source["id"],)).fetchall() == [("stored", 1)]
    total = script.manage("GET", f"/v1/usage?source_id={source['id']}")["total"]
    assert (total["stored"], total["replayed"]) == (1, 1)

    assert script.manage("POST", f"/v1/keys/{key['id']}/revoke")["revoked_at"]
    assert script.send(source, key).status == 401


def test_a_web_server_without_a_broker_serves_like_any_other(production: Settings, checkout: Path) -> None:
    with live_server(replace(production, broker_url="redis://127.0.0.1:1/0"), checkout) as server:
        script = _Script(server, production, checkout)
        source, key = script.make_source()

        assert script.send(source, key).status == 201
        assert server.request("GET", "/readyz").status == 200


class _Script:
    """What a user does with a workspace of his own, from the outside."""

    def __init__(self, server: LiveServer, settings: Settings, checkout: Path) -> None:
        self._server = server
        created = json.loads(_flask(settings, checkout, "workspace", "create", "Acme", "--json"))
        self._token = created["management_token"]

    def manage(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        sent = json.dumps(body).encode() if body is not None else None
        answer = self._server.request(method, path, sent, headers)
        assert answer.status in (200, 201), answer
        found = json.loads(answer.body)
        assert isinstance(found, dict)
        return found

    def make_source(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """A project, its production environment's source, and the source's key."""
        project = self.manage("POST", "/v1/projects", {"name": "shop"})
        environments = self.manage("GET", f"/v1/projects/{project['id']}/environments")["data"]
        environment = next(each["id"] for each in environments if each["name"] == "production")
        source = self.manage("POST", f"/v1/environments/{environment}/sources", {"name": "checkout", "type": "backend"})
        return source, self.manage("POST", f"/v1/sources/{source['id']}/keys", {"label": "first"})

    def send(self, source: dict[str, Any], key: dict[str, Any]) -> Answer:
        event = {"event_type": "payment.failed", "source_id": source["id"], "payload": {"amount": 49.99}}
        headers = {"X-API-Key": key["key"], "Idempotency-Key": "1", "Content-Type": "application/json"}
        return self._server.request("POST", PATH, json.dumps(event).encode(), headers)


_COUNTED = (
    "SELECT outcome, events FROM usage_hours JOIN sources ON sources.id = source_id WHERE public_id = %s ORDER BY 1"
)


def _flask(settings: Settings, checkout: Path, *command: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", *command],
        cwd=checkout,
        env=environment_of(settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
