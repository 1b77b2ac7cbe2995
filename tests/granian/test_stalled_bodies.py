"""Bodies and heads that do not come: they delay their own workspace, and no other one."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from app.config import Settings
from app.context import Context
from app.database.engine import TenantScope
from tests.support.live import LiveServer, gunicorn_server, make_known
from tests.support.people import Tenant
from tests.support.raw_http import answer_on, connected, head
from tests.support.sending import PATH, event_for

_JSON = "Content-Type: application/json"
_LENGTH = "Content-Length: 100"
_SECONDS_MAX = 2.0

_STARTS: dict[str, Callable[[Tenant], bytes]] = {
    "a management token": lambda one: head(
        "POST", "/v1/projects", f"Authorization: Bearer {one.token}", _JSON, _LENGTH
    ),
    "a source key": lambda one: head("POST", PATH, f"X-API-Key: {one.key}", _JSON, _LENGTH) + b"{",
    "a source key, in chunks": lambda one: (
        head("POST", f"{PATH}/batch", f"X-API-Key: {one.key}", _JSON, "Transfer-Encoding: chunked") + b"1\r\n[\r\n"
    ),
    "a body that is not wanted": lambda one: head("GET", "/v1/projects", f"Authorization: Bearer {one.token}", _LENGTH),
    "no credential": lambda _: head("POST", f"{PATH}/batch", _JSON, "Content-Length: 5000000") + b"[",
    "a method without a body": lambda _: head("GET", "/healthz", _LENGTH),
    "half a head": lambda _: head("POST", PATH, _JSON)[:-2],
}


@contextmanager
def _stalling(server: LiveServer, start: bytes, connections: int) -> Iterator[list[socket.socket]]:
    """So many requests that stop after `start`."""
    with ExitStack() as stack:
        opened = [stack.enter_context(connected(server.port)) for _ in range(connections)]
        for connection in opened:
            connection.sendall(start)
        yield opened


def _send(server: LiveServer, tenant: Tenant) -> int:
    body = json.dumps(event_for(tenant)).encode()
    return server.request("POST", PATH, body, {"X-API-Key": tenant.key, "Content-Type": "application/json"}).status


@pytest.mark.parametrize("start", _STARTS.values(), ids=_STARTS)
def test_three_hundred_of_them_delay_neither_health_nor_another_tenant(
    live: LiveServer, alice: Tenant, charlie: Tenant, start: Callable[[Tenant], bytes]
) -> None:
    assert _send(live, charlie) == 201  # the key is known from here on
    with _stalling(live, start(alice), 300):
        for _ in range(5):
            began = time.monotonic()
            assert live.request("GET", "/healthz").status == 200
            assert _send(live, charlie) == 201
            assert live.request("GET", "/v1/projects", headers=charlie.bearer).status == 200
            assert time.monotonic() - began < _SECONDS_MAX


def test_a_body_that_does_not_come_in_time_is_a_408(live: LiveServer, alice: Tenant) -> None:
    with _stalling(live, _STARTS["a source key"](alice), 1) as (connection,):
        answer = answer_on(connection)

    error = json.loads(answer.body)["error"]
    assert (answer.status, error["code"], error["retryable"]) == (408, "request_timeout", True)
    assert answer.headers["retry-after"] == "1"


def test_events_that_wait_for_a_commit_keep_no_health_check_waiting(
    live: LiveServer, context: Context, alice: Tenant
) -> None:
    """Management requests that wait for a lock hold threads of the application; who asks for health has another."""
    with context.database.transaction(TenantScope.ALL) as session:
        session.execute(text("LOCK TABLE projects"))
        with _stalling(live, head("GET", "/v1/projects", f"Authorization: Bearer {alice.token}"), 100):
            assert live.request("GET", "/healthz").status == 200


@pytest.mark.slow
@pytest.mark.parametrize("start", ["a source key", "a management token", "a body that is not wanted"])
def test_under_gunicorn_one_workspace_leaves_half_of_the_threads(
    settings: Settings, checkout: Path, alice: Tenant, charlie: Tenant, start: str
) -> None:
    """No time-out ends a read there. What is more than the share is refused at once, and nothing waits for its end."""
    own = replace(settings, database_pool_size=8, server_threads=16)
    with gunicorn_server(own, checkout, threads=16) as server:
        make_known(server, charlie.key, workers=2)
        assert server.request("GET", "/v1/projects", headers=alice.bearer).status == 200
        with _stalling(server, _STARTS[start](alice), 80):
            for _ in range(5):
                began = time.monotonic()
                assert server.request("GET", "/healthz").status == 200
                assert _send(server, charlie) == 201
                assert time.monotonic() - began < _SECONDS_MAX
