"""The adapter itself, between a server and an application that do what is rare: wait, and accept no response."""

import asyncio
import threading
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flask import Flask
from flask.testing import FlaskClient
from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined]

from app.context import Context
from app.errors import RateLimitExceeded
from app.events.feed.shared_answers import EXTENSION as SHARED_ANSWERS
from app.granian.adapter import GranianAdapter
from app.granian.environ import Environ
from app.granian.owners import Owners
from app.ingest.fast_path import FastPath
from app.ingest.services import EXTENSION as INGEST
from app.ingest.services import IngestServices
from app.wire.body_reads import BODY_REFUSAL
from tests.support.people import Tenant
from tests.support.sending import PATH, send

_BUSY_SECONDS_MAX = 30.0
_MIB = 1024 * 1024


@dataclass
class _Scope:
    path: str
    headers: Any
    method: str = "POST"
    http_version: str = "1.1"
    scheme: str = "http"
    query_string: str = ""
    server: str = "127.0.0.1:8000"
    client: str = "127.0.0.1:9"
    authority: str | None = None


@dataclass
class _Protocol:
    pieces: int
    answers: list[int] = field(default_factory=list)

    async def __aiter__(self) -> Any:
        for _ in range(self.pieces):
            await asyncio.sleep(0)
            yield bytes(_MIB)
        yield b""

    def response_bytes(self, status: int, _headers: object, _body: bytes) -> None:
        self.answers.append(status)


class _Application:
    """Answers the requests of `waiting` when it is let go, all others at once; 503 if it cannot have the body."""

    def __init__(self, waiting: Tenant) -> None:
        self._waiting = waiting.key
        self.may_go_on = threading.Event()
        self.has_one = threading.Semaphore(0)

    def __call__(self, environ: Environ, start_response: Callable[..., object]) -> Iterable[bytes]:
        status = "503" if BODY_REFUSAL in environ else "200"
        if environ["HTTP_X_API_KEY"] == self._waiting and status == "200":
            self.has_one.release()
            assert self.may_go_on.wait(_BUSY_SECONDS_MAX)
        start_response(f"{status} .", [("Content-Length", "0")])
        return []


@pytest.fixture(name="application")
def _application(alice: Tenant) -> _Application:
    return _Application(alice)


@pytest.fixture(name="services")
def _services(app: Flask) -> IngestServices:
    services = app.extensions[INGEST]
    assert isinstance(services, IngestServices)
    return services


@pytest.fixture(name="adapter")
def _adapter(app: Flask, services: IngestServices, application: _Application) -> GranianAdapter:
    fast_path = SimpleNamespace(application=application, begin=lambda _: None)
    return GranianAdapter(cast(FastPath, fast_path), services, app.extensions[SHARED_ANSWERS])


def test_bodies_that_wait_for_their_answer_take_no_more_than_their_share_of_memory(
    adapter: GranianAdapter, application: _Application, alice: Tenant, charlie: Tenant
) -> None:
    """64 MiB of one workspace. Whole bodies wait here: for a thread, or for what the application waits for."""

    async def scenario(send: Callable[..., asyncio.Task[int]]) -> list[int]:
        waiting = []
        for _ in range(16):
            waiting.append(send(alice, pieces=4))
            assert await asyncio.to_thread(application.has_one.acquire, timeout=_BUSY_SECONDS_MAX)
        refused = await asyncio.wait_for(send(alice, pieces=4), _BUSY_SECONDS_MAX)
        neighbour = await send(charlie, pieces=4)
        application.may_go_on.set()
        await asyncio.gather(*waiting)
        return [refused, neighbour, await send(alice, pieces=4)]

    assert _live(adapter, scenario) == [503, 200, 200]


def test_an_answer_that_the_server_does_not_take_ends_its_request(
    app: Flask, services: IngestServices, alice: Tenant
) -> None:
    """The event is stored, so no other answer may say that nothing was: the server gets the exception."""

    class Refusing(_Protocol):
        def response_bytes(self, status: int, _headers: object, _body: bytes) -> None:
            super().response_bytes(status, _headers, _body)
            raise RuntimeError

    async def answer(_pending: object, _waits: object) -> object:
        return 201, [], b""

    pending = SimpleNamespace(length=2, identity=SimpleNamespace(workspace_id=1))
    fast_path = SimpleNamespace(begin=lambda _: pending, answer=answer)
    adapter = GranianAdapter(cast(FastPath, fast_path), services, app.extensions[SHARED_ANSWERS])
    protocol = Refusing(0)

    async def scenario(_: object) -> None:
        scope = _Scope(PATH, {"host": "localhost", "x-api-key": alice.key})
        with pytest.raises(RuntimeError):
            await asyncio.wait_for(adapter.__rsgi__(cast(Any, scope), cast(Any, protocol)), _BUSY_SECONDS_MAX)

    _live(adapter, scenario)
    assert protocol.answers == [201]


def test_what_goes_wrong_while_a_body_is_read_is_the_application_s_to_answer(
    adapter: GranianAdapter, alice: Tenant
) -> None:
    """The server's own 500 has no body and no request id, and is counted nowhere."""

    class Failing(_Protocol):
        async def __aiter__(self) -> Any:
            if self.pieces:
                raise RuntimeError
            yield b""

    protocol = Failing(1)

    async def scenario(_: object) -> None:
        headers = {"host": "localhost", "x-api-key": alice.key, "transfer-encoding": "chunked"}
        await adapter.__rsgi__(cast(Any, _Scope(f"{PATH}/batch", headers)), cast(Any, protocol))

    _live(adapter, scenario)
    assert protocol.answers == [503]  # as this application answers where a body cannot be had


@pytest.mark.parametrize(("error", "status"), [(ProtocolClosed("gone"), 400), (RuntimeError("broken"), 500)])
def test_of_a_common_event_the_fast_path_answers_it(
    app: Flask, services: IngestServices, client: FlaskClient, alice: Tenant, error: Exception, status: int
) -> None:
    """A body that broke off is the client's doing, and no fault that an operator should look at."""

    class Failing(_Protocol):
        async def __call__(self) -> bytes:
            raise error

    assert send(client, alice).status_code == 201  # the key is in memory from here on
    adapter = GranianAdapter(cast(FastPath, app.wsgi_app), services, app.extensions[SHARED_ANSWERS])
    protocol = Failing(0)

    async def scenario(_: object) -> None:
        await adapter.__rsgi__(cast(Any, _scope_of_event(alice, length=2)), cast(Any, protocol))

    _live(adapter, scenario)
    assert protocol.answers == [status]


def test_a_refusal_before_the_body_is_read_waits_for_the_body(
    app: Flask, services: IngestServices, client: FlaskClient, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a client that is still sending would see the connection close, and not the answer."""
    reads = []

    class Sending(_Protocol):
        async def __call__(self) -> bytes:
            reads.append(1)
            return b"{}"

    def refuse(*_: object, **__: object) -> None:
        raise RateLimitExceeded

    assert send(client, alice).status_code == 201
    monkeypatch.setattr(services.rate_limiter, "admit", refuse)
    adapter = GranianAdapter(cast(FastPath, app.wsgi_app), services, app.extensions[SHARED_ANSWERS])
    protocol = Sending(0)

    async def scenario(_: object) -> None:
        await adapter.__rsgi__(cast(Any, _scope_of_event(alice, length=2)), cast(Any, protocol))

    _live(adapter, scenario)
    assert (protocol.answers, reads) == ([429], [1])


def test_a_token_is_one_owner_however_its_header_is_written(context: Context, alice: Tenant) -> None:
    owners = Owners(context.credentials)
    written = [f"Bearer {alice.token}", f"bearer  {alice.token} ", f"BEARER {alice.token}"]

    assert len({owners.token_of({"HTTP_AUTHORIZATION": header}) for header in written} - {None}) == 1
    assert owners.token_of({"HTTP_AUTHORIZATION": f"Bearer {alice.key}"}) is None


@pytest.mark.parametrize("path", ["/v1/projects", "/v1/keys/key_1/revoke"])
def test_many_credentials_have_the_turns_of_one_workspace_at_the_threads(
    context: Context, alice: Tenant, path: str
) -> None:
    """A workspace may have a thousand tokens, and any number of revoked keys, which no process remembers."""
    shown = [f"Bearer {context.credentials.mint('mt').text}" for _ in range(40)]

    owners = Owners(context.credentials)
    turns = {_queue_of(owners, _request(path, HTTP_AUTHORIZATION=each)) for each in shown}

    assert len(turns) == 40
    assert len({owner for owner, _ in turns}) == 1


def test_what_takes_a_right_away_does_not_wait_behind_the_rest_of_its_workspace(
    context: Context, client: FlaskClient, alice: Tenant
) -> None:
    assert client.get("/v1/projects", headers=alice.bearer).status_code == 200  # it is known from now on

    paths = ("/v1/projects", "/v1/keys", "/v1/keys/key_1/revoke")
    owners = [_queue_of(Owners(context.credentials), _request(path, alice))[0] for path in paths]

    assert owners[:2] == [alice.workspace_row] * 2
    assert owners[2] != alice.workspace_row


def _queue_of(owners: Owners, environ: Environ) -> tuple[Hashable, Hashable]:
    return owners.queue_of(environ, owners.owner_of(environ))


def _scope_of_event(tenant: Tenant, length: int) -> _Scope:
    headers = {"host": "localhost", "content-type": "application/json", "content-length": str(length)}
    return _Scope(PATH, {**headers, "x-api-key": tenant.key})


def _request(path: str, tenant: Tenant | None = None, **headers: str) -> Environ:
    shown = {"HTTP_AUTHORIZATION": f"Bearer {tenant.token}"} if tenant else {}
    return {"PATH_INFO": path, "QUERY_STRING": "", **shown, **headers}


def _live(adapter: GranianAdapter, scenario: Callable[..., Any]) -> list[int]:
    """What `scenario` finds while the adapter runs; it is given what sends a request of a tenant."""

    async def run() -> Any:
        adapter.__rsgi_init__(asyncio.get_running_loop())
        try:
            return await scenario(send)
        finally:
            adapter.__rsgi_del__(asyncio.get_running_loop())

    def send(tenant: Tenant, pieces: int = 0) -> asyncio.Task[int]:
        return asyncio.create_task(_answered(adapter, tenant, pieces))

    found: list[int] = asyncio.run(run())
    return found


async def _answered(adapter: GranianAdapter, tenant: Tenant, pieces: int) -> int:
    protocol = _Protocol(pieces)
    headers = {"host": "localhost", "x-api-key": tenant.key} | ({"transfer-encoding": "chunked"} if pieces else {})
    await adapter.__rsgi__(cast(Any, _Scope(f"{PATH}/batch", headers)), cast(Any, protocol))
    (status,) = protocol.answers
    return status
