"""The neighbour who is measured: sends events and batches and asks for health, from a process of its own.

Sixteen senders of single events, one of batches of ten, one that asks for `/healthz`; each takes a new connection for
each request, as a producer behind a load balancer does, and goes on 20 ms after its answer.
"""

import contextlib
import http.client
import json
import multiprocessing
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from uuid import uuid4

_SENDERS = 16
_PAUSE_SECONDS = 0.02
_TIMEOUT_SECONDS = 15.0
_BATCH_EVENTS = 10
KINDS = ("single", "batch", "health")


@dataclass(frozen=True, slots=True)
class Tenant:
    """What a tenant sends and manages with."""

    port: int
    source_id: str
    key: str = field(repr=False)
    token: str = field(repr=False)

    def event(self, **members: object) -> dict[str, object]:
        """An event of this tenant's source, new unless `members` name an event_id."""
        named = {
            "event_id": uuid4().hex,
            "event_type": "bench.neighbour",
            "source_id": self.source_id,
            "payload": {"n": 1},
        }
        return named | members

    def send(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> int:
        """The status of a POST with the source key. Raises OSError and HTTPException if there is no answer."""
        return self.request("POST", path, body, {"X-API-Key": self.key} | (headers or {}))[0]

    def manage(self, method: str, path: str, document: object = None) -> tuple[int, dict[str, object]]:
        """Status and body of a request with the management token."""
        body = None if document is None else json.dumps(document).encode()
        status, text = self.request(method, path, body, {"Authorization": f"Bearer {self.token}"})
        return status, json.loads(text or b"{}")

    def request(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_TIMEOUT_SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Content-Type": "application/json"} | headers)
            answer = connection.getresponse()
            return answer.status, answer.read()


@dataclass(slots=True)
class Suffered:
    """The outcomes of one kind of request."""

    milliseconds: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    """How many were not answered with a 2xx, by status or by the name of the error."""

    @property
    def worst_ms(self) -> float:
        return max(self.milliseconds, default=0.0)


@contextmanager
def suffering(tenant: Tenant) -> Iterator[dict[str, Suffered]]:
    """Measure during the block; the result is filled in at its end."""
    found: dict[str, Suffered] = {kind: Suffered() for kind in KINDS}
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(tenant, theirs), daemon=True)
    process.start()
    ours.recv()
    try:
        yield found
    finally:
        ours.send("stop")
        found.update(ours.recv())
        process.join()


def _measure(tenant: Tenant, parent: Connection) -> None:
    stop = threading.Event()
    found: dict[str, Suffered] = defaultdict(Suffered)
    mutex = threading.Lock()

    def loop(kind: str) -> None:
        while not stop.is_set():
            began = time.perf_counter()
            outcome = _once(tenant, kind)
            took = (time.perf_counter() - began) * 1000
            with mutex:
                found[kind].milliseconds.append(took)
                if outcome:
                    found[kind].refused[outcome] += 1
            stop.wait(_PAUSE_SECONDS)

    kinds = ["single"] * _SENDERS + ["batch", "health"]
    threads = [threading.Thread(target=loop, args=(kind,), daemon=True) for kind in kinds]
    for thread in threads:
        thread.start()
    parent.send("measuring")
    parent.recv()
    stop.set()
    for thread in threads:
        thread.join()
    parent.send(dict(found))


def _once(tenant: Tenant, kind: str) -> str:
    """What was wrong with one request; "" if nothing was."""
    try:
        if kind == "health":
            status, _ = tenant.request("GET", "/healthz", None, {})
        elif kind == "batch":
            batch = {"events": [tenant.event() for _ in range(_BATCH_EVENTS)]}
            status = tenant.send("/v1/events/ingest/batch", json.dumps(batch).encode())
        else:
            status = tenant.send("/v1/events/ingest", json.dumps(tenant.event()).encode())
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    return "" if status in (200, 201) else str(status)
