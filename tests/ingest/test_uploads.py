"""Bodies that stall: they hold up whoever stalls them, and nobody else."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
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

    def wait(key: int) -> None:
        with uploads.reading(key):
            reading.release()
            come.wait()

    reading = threading.Semaphore(0)
    readers = [threading.Thread(target=wait, args=(key,)) for key in keys]
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
        _read(uploads, _OTHER_KEY)
        assert _is_refused(uploads, _KEY, clock)
        _read(uploads, _OTHER_KEY)

    _read(uploads, _KEY)


def test_a_burst_of_bodies_that_come_is_not_refused_before_it_takes_half_of_the_threads() -> None:
    uploads = Uploads(_Clock())
    with _stalled(uploads, [_KEY] * 63):
        _read(uploads, _KEY)
        with _stalled(uploads, [_KEY]), pytest.raises(StorageUnavailable):
            _read(uploads, _KEY)


def test_while_bodies_come_to_their_end_none_is_refused_however_long_there_are_many() -> None:
    clock = _Clock()
    uploads = Uploads(clock)
    with _stalled(uploads, [_KEY] * 20):
        for _ in range(10):
            clock.now += 0.9
            _read(uploads, _KEY)


def test_all_keys_together_leave_threads_for_the_rest_of_the_api() -> None:
    clock = _Clock()
    uploads = Uploads(clock)
    with _stalled(uploads, list(range(100, 196))):
        assert _is_refused(uploads, _KEY, clock)


def test_a_body_that_breaks_off_is_not_counted_any_longer() -> None:
    clock = _Clock()
    uploads = Uploads(clock)
    for _ in range(40):
        with suppress(ConnectionError), uploads.reading(_KEY):
            raise ConnectionError

    assert not _is_refused(uploads, _KEY, clock)


def _read(uploads: Uploads, key: int) -> None:
    with uploads.reading(key):
        pass


def _is_refused(uploads: Uploads, key: int, clock: _Clock) -> bool:
    """Whether the key is refused once it has been known for more than a second that its bodies stall."""
    with suppress(StorageUnavailable):
        uploads.begin(key)
        clock.now += 2.0
        try:
            uploads.begin(key)
        except StorageUnavailable:
            return True
        finally:
            uploads.end(key)
        uploads.end(key)
        return False
    return True


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
