"""A steady stream of changes delays no revocation."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from app.config import Settings
from app.context import Context
from tests.support.live import LiveServer, live_server
from tests.support.operating import ApiClient
from tests.support.people import Tenant, rows
from tests.support.waiting import wait_until

_LOOPS = 6
_KEYS = "SELECT count(*) FROM source_keys WHERE workspace_id = :id"


@pytest.fixture(name="server", scope="module")
def _server(settings: Settings, checkout: Path) -> Iterator[LiveServer]:
    with live_server(replace(settings, database_pool_size=16), checkout, workers=2) as server:
        yield server


class _Thief:
    """Issues keys with a stolen token, in several loops, until it is refused."""

    def __init__(self, server: LiveServer, tenant: Tenant) -> None:
        self._server = server
        self._path = f"/v1/sources/{tenant.source_id}/keys"
        self._headers = {"Authorization": f"Bearer {tenant.token}", "Content-Type": "application/json"}
        self._is_over = Event()

    def _loop(self) -> int:
        status = 201
        while status in (201, 429, 503) and not self._is_over.is_set():
            status = self._server.request("POST", self._path, b"{}", self._headers).status
        return status

    @contextmanager
    def at_work(self) -> Iterator[list[Future[int]]]:
        """Its loops, until they are refused or the block ends; each results in its last status."""
        with ThreadPoolExecutor(_LOOPS) as pool:
            loops = [pool.submit(self._loop) for _ in range(_LOOPS)]
            try:
                yield loops
            finally:
                self._is_over.set()


def _count(context: Context, tenant: Tenant) -> int:
    return int(rows(context, _KEYS, id=tenant.workspace_row)[0][0])


def test_a_stolen_token_is_revoked_while_it_issues_keys_and_issues_none_after_that(
    server: LiveServer, context: Context, bob: ApiClient, alice: Tenant
) -> None:
    colleague = {"Authorization": f"Bearer {bob.token}"}
    with _Thief(server, alice).at_work() as loops:
        wait_until(lambda: _count(context, alice) > 2 * _LOOPS)

        answer = server.request("POST", f"/v1/tokens/{alice.token_id}/revoke", headers=colleague)
        issued = _count(context, alice)
        last = [loop.result(timeout=30) for loop in loops] if answer.status == 200 else []

    assert answer.status == 200
    assert last == [401] * _LOOPS
    assert _count(context, alice) == issued


@pytest.mark.slow
@pytest.mark.parametrize("what", ["disable a source", "archive a source", "archive a project"])
def test_what_gets_children_all_the_time_can_be_taken_out_of_use(
    server: LiveServer, context: Context, bob: ApiClient, alice: Tenant, what: str
) -> None:
    method, path = {
        "disable a source": ("POST", f"/v1/sources/{alice.source_id}/disable"),
        "archive a source": ("DELETE", f"/v1/sources/{alice.source_id}"),
        "archive a project": ("DELETE", f"/v1/projects/{alice.project_id}"),
    }[what]
    with _Thief(server, alice).at_work():
        wait_until(lambda: _count(context, alice) > 2 * _LOOPS)

        answer = server.request(method, path, headers={"Authorization": f"Bearer {bob.token}"})

    assert answer.status in (200, 204)
