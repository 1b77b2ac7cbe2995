"""A refusal reaches a client that is still sending: it reads the answer, and does not meet a broken pipe."""

import http.client
import json
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.config import Settings
from app.wire import body_reads
from app.wire.body_reads import BodyReadLimiter, BodyReadLimits
from tests.support.live import LiveServer, gunicorn_server
from tests.support.people import Tenant
from tests.support.raw_http import answer_on, connected, head
from tests.support.sending import PATH

_SIZES = (530_000, 2_000_000, 6_000_000, 8_000_000)
_EACH = 25
_JSON = "Content-Type: application/json"
_BATCH = f"{PATH}/batch"
_UNWANTED_BYTES_MAX = 16 * 1024 * 1024
_BUSY_SECONDS_MAX = 30.0


def _cases(tenant: Tenant) -> dict[str, tuple[str, dict[str, str], int]]:
    """Path, headers, and the status that is due whatever the size."""
    right = {"X-API-Key": tenant.key, "Content-Type": "application/json"}
    return {
        "too large": (PATH, right, 413),
        "a wrong key": (PATH, right | {"X-API-Key": "lrb_sk_wrong"}, 401),
        "no key, for a batch": (_BATCH, {"Content-Type": "application/json"}, 401),
        "a wrong type": (PATH, right | {"Content-Type": "text/csv"}, 415),
        "an unknown path": ("/v1/nothing", right, 404),
        "a wrong method": ("/healthz", right, 405),
    }


def _status_of(server: LiveServer, path: str, headers: dict[str, str], size: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("POST", path, bytes(size), headers)
        response = connection.getresponse()
        json.loads(response.read())
        return response.status
    finally:
        connection.close()


@pytest.mark.parametrize("case", range(6))
def test_of_a_hundred_clients_of_pythons_all_read_the_answer(live: LiveServer, alice: Tenant, case: int) -> None:
    path, headers, due = list(_cases(alice).values())[case]
    with ThreadPoolExecutor(8) as clients:
        sizes = [size for size in _SIZES for _ in range(_EACH)]
        statuses = list(clients.map(lambda size: _status_of(live, path, headers, size), sizes))

    assert set(statuses) == {due}


_FETCH = """
const [url, headers, sizes] = [process.argv[1], JSON.parse(process.argv[2]), JSON.parse(process.argv[3])];
const one = async (size) => {
  try {
    const answer = await fetch(url, {method: "POST", headers, body: new Uint8Array(size)});
    await answer.json();
    return answer.status;
  } catch (error) { return String(error.cause ?? error); }
};
const found = [];
while (sizes.length) found.push(...await Promise.all(sizes.splice(0, 8).map(one)));
console.log(JSON.stringify(found));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.slow
def test_of_a_hundred_clients_of_nodes_all_read_the_answer(live: LiveServer, alice: Tenant) -> None:
    sizes = json.dumps([size for size in _SIZES for _ in range(_EACH)])
    for path, headers, due in _cases(alice).values():
        url = f"http://127.0.0.1:{live.port}{path}"
        command = ["node", "--input-type=module", "-e", _FETCH, url, json.dumps(headers), sizes]
        ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        assert set(json.loads(ended.stdout)) == {due}


def test_a_client_that_asks_before_it_sends_hears_the_refusal_first(live: LiveServer, alice: Tenant) -> None:
    """`Expect: 100-continue`, as curl sends it: then the body need not be sent at all."""
    start = head("POST", PATH, f"X-API-Key: {alice.key}", "Content-Length: 9000000", "Expect: 100-continue", _JSON)
    with connected(live.port) as connection:
        connection.sendall(start)
        assert answer_on(connection).status == 413


@pytest.mark.slow
def test_gunicorn_lets_them_arrive_as_well(settings: Settings, checkout: Path, alice: Tenant) -> None:
    with gunicorn_server(settings, checkout) as server, ThreadPoolExecutor(4) as clients:
        for path, headers, due in _cases(alice).values():
            statuses = clients.map(lambda size, to=path, of=headers: _status_of(server, to, of, size), _SIZES * 3)
            assert set(statuses) == {due}


class _Endless:
    """A body of which each read brings a piece of this size after so many seconds."""

    def __init__(self, piece_bytes: int, seconds: float) -> None:
        self._piece_bytes = piece_bytes
        self._seconds = seconds
        self.now = self.taken = 0.0

    def monotonic(self) -> float:
        return self.now

    def read(self, _size: int) -> bytes:
        self.now += self._seconds
        self.taken += self._piece_bytes
        return (
            bytes(self._piece_bytes) if self.taken <= 4 * _UNWANTED_BYTES_MAX and self.now < _BUSY_SECONDS_MAX else b""
        )


@pytest.mark.parametrize(
    ("piece_bytes", "seconds", "taken"), [(65_536, 0.0, _UNWANTED_BYTES_MAX), (1, 0.5, 10)], ids=["long", "slow"]
)
@pytest.mark.slow
def test_under_gunicorn_a_body_that_does_not_end_is_read_up_to_16_mib_or_for_five_seconds(
    monkeypatch: pytest.MonkeyPatch, piece_bytes: int, seconds: float, taken: int
) -> None:
    """Then the connection takes no more, or gunicorn would go on reading it."""
    endless = _Endless(piece_bytes, seconds)
    monkeypatch.setattr(body_reads, "time", endless)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        environ = {"gunicorn.socket": ours, "wsgi.input": endless}
        body_reads.discard_rest(environ, BodyReadLimiter(BodyReadLimits.of_threads(8)), waits=True)
        ours.setblocking(False)

        assert endless.taken == taken
        assert ours.recv(1) == b"", "the connection can still be read"
