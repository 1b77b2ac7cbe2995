"""Bodies that stall: they hold up whoever stalls them, and nobody else."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from app.config import Settings
from app.context import Context
from app.errors import StorageUnavailable
from app.ingest.uploads import Uploads
from tests.live import LiveServer, live_server
from tests.people import Tenant
from tests.sending import PATH, event_for
from tests.waiting import wait_until

_KEY, _OTHER_KEY = 1, 2


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def _stalled(uploads: Uploads, keys: list[int]) -> Iterator[None]:
    """One body of each of `keys` that is being read and does not come."""
    come = threading.Event()

    def wait() -> bytes:
        reading.release()
        come.wait()
        return b""

    reading = threading.Semaphore(0)
    readers = [threading.Thread(target=uploads.read, args=(key, wait)) for key in keys]
    for reader in readers:
        reader.start()
        reading.acquire()
    yield
    come.set()
    for reader in readers:
        reader.join()


def test_a_key_with_too_many_stalled_bodies_is_refused_at_once_and_other_keys_are_not() -> None:
    clock = _Clock()
    uploads = Uploads(clock)
    with _stalled(uploads, [_KEY] * 16):
        clock.now = 2.0

        with pytest.raises(StorageUnavailable):
            uploads.read(_KEY, lambda: b"body")
        assert uploads.read(_OTHER_KEY, lambda: b"body") == b"body"

    assert uploads.read(_KEY, lambda: b"body") == b"body"


def test_a_burst_of_bodies_that_come_is_not_refused_before_it_takes_half_of_the_threads() -> None:
    uploads = Uploads(_Clock())
    with _stalled(uploads, [_KEY] * 63):
        assert uploads.read(_KEY, lambda: b"body") == b"body"
        with _stalled(uploads, [_KEY]), pytest.raises(StorageUnavailable):
            uploads.read(_KEY, lambda: b"body")


def test_all_keys_together_leave_threads_for_the_rest_of_the_api() -> None:
    clock = _Clock()
    uploads = Uploads(clock)
    with _stalled(uploads, list(range(100, 196))):
        clock.now = 2.0

        with pytest.raises(StorageUnavailable):
            uploads.read(_KEY, lambda: b"body")


def test_a_body_that_breaks_off_is_not_counted_any_longer() -> None:
    clock = _Clock()
    uploads = Uploads(clock)

    def break_off() -> bytes:
        raise ConnectionError

    for _ in range(40):
        with pytest.raises(ConnectionError):
            uploads.read(_KEY, break_off)
    clock.now = 2.0

    assert uploads.read(_KEY, lambda: b"body") == b"body"


@pytest.fixture(name="server")
def _server(settings: Settings, checkout: Path) -> Iterator[LiveServer]:
    with live_server(replace(settings, database_pool_size=8), checkout, workers=1, threads=128) as server:
        yield server


def test_stalled_uploads_of_one_key_hold_up_neither_other_keys_nor_health(
    server: LiveServer, house: Context, tenant: Callable[[], Tenant]
) -> None:
    alice, charlie = tenant(), tenant()
    with ExitStack() as stack:
        for _ in range(200):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nX-API-Key: {alice.key}\r\n"
            connection.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
        # Once the first have stalled for a second, the key's next ones are refused, and their threads are free.
        wait_until(lambda: _send(server, alice) == 503)

        assert _send(server, charlie) == 201
        assert server.request("GET", "/healthz").status == 200


def _send(server: LiveServer, tenant: Tenant) -> int:
    body = str(event_for(tenant)).replace("'", '"').encode()
    return server.request("POST", PATH, body, {"X-API-Key": tenant.key, "Content-Type": "application/json"}).status
