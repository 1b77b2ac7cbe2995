"""The reserve of server threads: who rests, who is called back, and that a stalled upload never costs the last one."""

import json
import random
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import text

from app.config import Settings
from app.context import Context
from app.database import EVERYWHERE
from app.thread_reserve import ThreadReserve
from tests.live import LiveServer, live_server
from tests.people import Tenant, rows
from tests.sending import PATH, event_for
from tests.servers import OUR_LOCKS
from tests.waiting import wait_until

_THREADS = 12
_WAITING = f"SELECT 1 FROM {OUR_LOCKS} relation = 'projects'::regclass AND NOT granted"


@pytest.fixture(name="reserve")
def _reserve() -> ThreadReserve:
    return ThreadReserve()


def _thread_that_rests(reserve: ThreadReserve) -> threading.Thread:
    before = reserve.resting
    thread = threading.Thread(target=reserve.rest, daemon=True)
    thread.start()
    wait_until(lambda: reserve.resting > before)
    return thread


def _ended(threads: list[threading.Thread]) -> int:
    return sum(not thread.is_alive() for thread in threads)


def test_the_fifth_of_five_requests_at_once_makes_its_thread_rest(reserve: ThreadReserve) -> None:
    assert [reserve.begin(number) for number in range(5)] == [False] * 4 + [True]

    for number in range(5):
        reserve.end(number)
    assert not reserve.begin("a later one")


def test_threads_that_are_about_to_rest_send_nobody_else_to_rest(reserve: ThreadReserve) -> None:
    """Or the last one awake could go too, and the process would answer nobody any more."""
    assert [reserve.begin(request) for request in "abcdefgh"] == [False] * 4 + [True] * 4
    for request in "abcd":
        reserve.end(request)

    assert [reserve.begin(request) for request in "ijkl"] == [False] * 4


def test_of_many_threads_with_ever_new_requests_four_stay_awake(reserve: ThreadReserve) -> None:
    """As in an overload: whoever may go on takes the next request at once, in any order."""
    chance = random.Random(1)
    awake, at_work = set(range(128)), dict[int, bool]()
    for _ in range(20_000):
        thread = chance.choice(sorted(awake))
        if thread in at_work:
            reserve.end(thread)
            if at_work.pop(thread):
                awake.discard(thread)
        else:
            at_work[thread] = reserve.begin(thread)

    assert len(awake) == 4


def test_whoever_may_block_is_replaced_by_one_thread_that_rests(reserve: ThreadReserve) -> None:
    threads = [_thread_that_rests(reserve) for _ in range(2)]

    reserve.replace()
    wait_until(lambda: _ended(threads) == 1)
    assert reserve.resting == 1


def test_a_call_that_nobody_hears_is_not_kept_for_the_next_to_rest(reserve: ThreadReserve) -> None:
    reserve.replace()

    assert _thread_that_rests(reserve).is_alive()


def test_threads_seen_twice_at_the_same_request_are_replaced_once(reserve: ThreadReserve) -> None:
    for request in "abc":
        reserve.begin(request)
    threads = [_thread_that_rests(reserve) for _ in range(5)]

    wait_until(lambda: _ended(threads) == 3)
    reserve.look(set("abc"))
    assert reserve.resting == 2
    assert [reserve.begin(request) for request in "defgh"] == [False] * 4 + [True]


def test_once_they_go_on_as_many_rest_again_as_before(reserve: ThreadReserve) -> None:
    for request in "abc":
        reserve.begin(request)
    reserve.look(reserve.look(set()))
    for request in "abc":
        reserve.end(request)
    reserve.look(set("abc"))

    assert reserve.resting == 0
    assert reserve.resting == 0
    assert [reserve.begin(request) for request in "defgh"] == [False] * 4 + [True]


@pytest.mark.wiring
def test_resting_threads_come_back_for_stalled_uploads_and_end_with_the_server(
    settings: Settings, checkout: Path, tenant: Callable[[], Tenant]
) -> None:
    alice, charlie = tenant(), tenant()
    with live_server(settings, checkout, workers=1, threads=_THREADS) as server, ExitStack() as stack:
        assert _send(server, charlie) == 201
        _let_threads_rest(server, alice)

        for _ in range(_THREADS - 1):
            _Upload(server, alice, stack)
        assert server.request("GET", "/healthz").status == 200
        assert _send(server, charlie) == 201

        stack.close()
        assert _send(server, alice) == 201
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=15) == 0


@pytest.mark.wiring
def test_resting_threads_come_back_for_views_that_wait_for_the_database(
    settings: Settings, checkout: Path, house: Context, alice: Tenant
) -> None:
    with (
        live_server(settings, checkout, workers=1, threads=_THREADS) as server,
        ThreadPoolExecutor(_THREADS - 1) as callers,
    ):
        _let_threads_rest(server, alice)
        with house.database.transaction(EVERYWHERE) as session:
            session.execute(text("LOCK TABLE projects"))
            for _ in range(_THREADS - 1):
                callers.submit(server.request, "GET", "/v1/projects", headers=alice.bearer)
            # More than run while the others rest.
            wait_until(lambda: len(rows(house, _WAITING)) > 4)
            assert server.request("GET", "/healthz").status == 200


def _let_threads_rest(server: LiveServer, tenant: Tenant) -> None:
    """Give nearly all threads a body to wait for; when the bodies come, all but a few of the threads rest."""
    assert _send(server, tenant) == 201
    with ExitStack() as stack:
        uploads = [_Upload(server, tenant, stack) for _ in range(_THREADS - 1)]
        assert server.request("GET", "/healthz").status == 200
        assert {upload.finish() for upload in uploads} == {201}


class _Upload:
    """A request whose body has not come yet."""

    def __init__(self, server: LiveServer, tenant: Tenant, stack: ExitStack) -> None:
        self._body = json.dumps(event_for(tenant)).encode()
        self._socket = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nX-API-Key: {tenant.key}\r\nContent-Type: application/json\r\n"
        self._socket.sendall(f"{head}Content-Length: {len(self._body)}\r\n\r\n".encode())

    def finish(self) -> int:
        """Send the body, and return the status of the answer."""
        self._socket.sendall(self._body)
        return int(self._socket.recv(4096).split()[1])


def _send(server: LiveServer, tenant: Tenant) -> int:
    headers = {"X-API-Key": tenant.key, "Content-Type": "application/json"}
    return server.request("POST", PATH, json.dumps(event_for(tenant)).encode(), headers).status
