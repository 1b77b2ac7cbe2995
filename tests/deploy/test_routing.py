"""The shipped files of nginx and HAProxy, as real processes in front of two real cells."""

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from app.cells.routing import read_exceptions
from app.config import Settings
from app.credentials.format import KEY_ID
from app.ingest.cors import PREFLIGHT_HEADERS
from bench.proxies import PROGRAMS, Program, Proxy, missing, proxy
from tests.support.breaking_servers import breaking_server
from tests.support.cells import Cell, cells, tenant_with_letters
from tests.support.following import FEED
from tests.support.live import Answer, LiveServer, live_server, read
from tests.support.people import Tenant, execute, make_tenant, rows
from tests.support.proxies import ask
from tests.support.sending import PATH, event_for
from tests.support.waiting import wait_until

_MIB = 1024 * 1024
_JSON = {"Content-Type": "application/json"}
_NDJSON = {"Content-Type": "application/x-ndjson"}
_EVENTS = 1_000
# The proxy's address, and those of two clients.
_PROXY, _NEAR, _FAR = "127.0.0.1", "127.0.0.2", "127.0.0.3"


@pytest.fixture(name="pair", scope="module")
def _pair(server_url: str, migrated: Settings) -> Iterator[list[Cell]]:
    """eu1 gets what is of none."""
    with cells(server_url, migrated, "eu1", "us1") as pair:
        yield pair


@pytest.fixture(name="astray", scope="module")
def _astray(pair: list[Cell]) -> Tenant:
    """Lives in eu1 with a key and a token of us1."""
    return tenant_with_letters(pair[0], "us1")


@pytest.fixture(name="unmapped", scope="module")
def _unmapped(pair: list[Cell]) -> Tenant:
    """Lives in us1, and the map has not been told so."""
    return make_tenant(pair[1].context)


@pytest.fixture(name="program", scope="module", params=PROGRAMS)
def _program(request: pytest.FixtureRequest) -> Program:
    if reason := missing(request.param):
        pytest.skip(reason)
    program: Program = request.param
    return program


@pytest.fixture(name="servers", scope="module")
def _servers(pair: list[Cell], checkout: Path) -> Iterator[dict[str, list[int]]]:
    """The port of one for each cell."""
    with ExitStack() as stack:
        yield {cell.name: [stack.enter_context(_server(cell, checkout)).port] for cell in pair}


@pytest.fixture(name="front", scope="module")
def _front(
    *,
    program: Program,
    pair: list[Cell],
    astray: Tenant,
    unmapped: Tenant,
    servers: dict[str, list[int]],
    checkout: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxy]:
    exceptions = dict(read_exceptions([each.settings for each in pair]))
    assert exceptions == {_id_in(astray.key): "eu1", _id_in(astray.token): "eu1"}
    exceptions |= {_id_in(unmapped.key): "eu1", _id_in(unmapped.token): "eu1"}
    with proxy(program, checkout, tmp_path_factory.mktemp("front") / program, servers, exceptions) as running:
        yield running


def _server(cell: Cell, checkout: Path) -> Any:
    return live_server(replace(cell.settings, trusted_proxies=(f"{_PROXY}/32",)), checkout)


def _send(
    front: Proxy, tenant: Tenant, *, client: str = _PROXY, headers: dict[str, str] | None = None, **changes: Any
) -> Answer:
    sent = {"X-API-Key": tenant.key} | _JSON | (headers or {})
    return ask(front, "POST", PATH, json.dumps(event_for(tenant, **changes)).encode(), sent, client=client)


def _stored(cell: Cell, tenant: Tenant) -> int:
    query = "SELECT 1 FROM events WHERE project_id = :project AND source_id = :source"
    return len(rows(cell.context, query, project=tenant.project_row, source=tenant.source_row))


def _error(answer: Answer) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = json.loads(answer.body)["error"]
    assert error["request_id"] == answer.headers["x-request-id"]
    return error


def test_each_key_stores_in_its_own_cell(front: Proxy, pair: list[Cell]) -> None:
    for cell in pair:
        tenant = make_tenant(cell.context)
        assert [_send(front, tenant).status for _ in range(3)] == [201] * 3
        assert [_stored(each, tenant) for each in pair] == [3 if each is cell else 0 for each in pair]


def test_each_token_manages_its_own_cell(front: Proxy, pair: list[Cell]) -> None:
    for cell in pair:
        tenant = make_tenant(cell.context)
        answer = ask(front, "GET", "/v1/projects", headers=tenant.bearer)
        assert [project["id"] for project in json.loads(answer.body)["data"]] == [tenant.project_id]


def test_a_browsers_key_in_the_query_finds_its_cell(front: Proxy, pair: list[Cell]) -> None:
    tenant = make_tenant(pair[1].context)
    execute(
        pair[1].context,
        "UPDATE source_keys SET allowed_origins = '{https://shop.example}', allowed_event_types = '{payment.*}'"
        " WHERE id = :id",
        id=tenant.key_row,
    )
    body = json.dumps(event_for(tenant)).encode()
    headers = {"Content-Type": "text/plain", "Origin": "https://shop.example"}

    assert ask(front, "POST", f"{PATH}?key={tenant.key}", body, headers).status == 201
    assert _stored(pair[1], tenant) == 1


def test_a_key_without_letters_goes_to_the_first_cell(front: Proxy, pair: list[Cell]) -> None:
    old = tenant_with_letters(pair[0], "")

    assert _send(front, old).status == 201
    assert ask(front, "GET", "/v1/projects", headers=old.bearer).status == 200


def test_what_shows_no_key_or_a_wrong_one_is_answered_by_the_product(front: Proxy) -> None:
    assert ask(front, "GET", "/readyz").status == 200
    for headers in ({}, {"X-API-Key": "nonsense"}, {"X-API-Key": "lrb_sk_us1aaaaaaaaaaaaa_x"}):
        answer = ask(front, "POST", PATH, b"{}", _JSON | headers)
        assert (answer.status, _error(answer)["code"]) == (401, "invalid_source_key")


def test_an_exception_in_the_map_goes_before_the_letters(front: Proxy, pair: list[Cell], astray: Tenant) -> None:
    before = _stored(pair[0], astray)

    assert _send(front, astray).status == 201
    assert _stored(pair[0], astray) == before + 1
    assert ask(front, "GET", "/v1/projects", headers=astray.bearer).status == 200


def test_a_key_that_the_map_sends_to_the_wrong_cell_is_sent_on_by_nginx_and_told_the_right_one_by_haproxy(
    front: Proxy, pair: list[Cell], unmapped: Tenant
) -> None:
    before = _stored(pair[1], unmapped)
    answers = [
        _send(front, unmapped),
        _send(front, unmapped, payload={"text": "x" * 200_000}),
        ask(front, "POST", f"{PATH}/batch", _batch_of(unmapped, 2 * _MIB), {"X-API-Key": unmapped.key} | _NDJSON),
        ask(front, "GET", "/v1/projects", headers=unmapped.bearer),
    ]

    if front.program == "nginx":
        assert [answer.status for answer in answers] == [201, 201, 200, 200]
        assert _stored(pair[1], unmapped) == before + 2 + _EVENTS
    else:
        assert [(answer.status, answer.headers["lariba-cell"]) for answer in answers] == [(421, "us1")] * 4
        assert _stored(pair[1], unmapped) == before
    assert _stored(pair[0], unmapped) == 0


def test_a_batch_of_five_mebibytes_passes_and_a_larger_one_is_too_large(front: Proxy, pair: list[Cell]) -> None:
    tenant = make_tenant(pair[1].context)
    headers = {"X-API-Key": tenant.key} | _NDJSON

    answer = ask(front, "POST", f"{PATH}/batch", _batch_of(tenant, 5 * _MIB), headers)
    assert json.loads(answer.body)["totals"] == {"stored": _EVENTS, "duplicate": 0, "rejected": 0}
    for size in (5 * _MIB + 1, 7 * _MIB):
        answer = ask(front, "POST", f"{PATH}/batch", _batch_of(tenant, size), headers)
        assert (answer.status, _error(answer)["code"]) == (413, "payload_too_large")
    assert _stored(pair[1], tenant) == _EVENTS


def test_a_follower_may_wait(front: Proxy, pair: list[Cell]) -> None:
    tenant = make_tenant(pair[1].context)

    answer = ask(front, "GET", f"{FEED}?project_id={tenant.project_id}&wait=3", headers=tenant.bearer)

    assert (answer.status, json.loads(answer.body)["data"]) == (200, [])


def test_an_export_passes_whole(front: Proxy, pair: list[Cell]) -> None:
    tenant = make_tenant(pair[1].context)
    ask(front, "POST", f"{PATH}/batch", _batch_of(tenant, 4 * _MIB), {"X-API-Key": tenant.key} | _NDJSON)

    answer = ask(front, "GET", f"/v1/events/export?project_id={tenant.project_id}", headers=tenant.bearer)

    assert json.loads(answer.body.splitlines()[-1]) == {"complete": True, "events": _EVENTS}


def test_each_path_is_answered_as_the_product_does(
    front: Proxy, pair: list[Cell], servers: dict[str, list[int]]
) -> None:
    tenant = make_tenant(pair[1].context)
    paths = json.loads(ask(front, "GET", "/openapi.json").body)["paths"]
    asked = [(method, re.sub(r"{\w+}", "x", path)) for path in paths for method in ("GET", "POST", "TRACE")]

    def answered(port: int) -> list[tuple[int, str, str | None]]:
        return [_kind_of_answer(port, method, path, tenant) for method, path in asked]

    assert answered(front.port) == answered(servers["us1"][0])


def _kind_of_answer(port: int, method: str, path: str, tenant: Tenant) -> tuple[int, str, str | None]:
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path, headers=tenant.bearer)
        answer = read(connection.getresponse())
    return answer.status, answer.headers.get("content-type", ""), answer.headers.get("allow")


def test_the_address_is_the_clients_whatever_it_says(front: Proxy, pair: list[Cell]) -> None:
    tenant = make_tenant(pair[1].context)
    allow = f"UPDATE source_keys SET allowed_networks = '{{{_NEAR}/32}}' WHERE id = :id"
    execute(pair[1].context, allow, id=tenant.key_row)

    assert _send(front, tenant, client=_NEAR).status == 201
    for client, headers in ((_FAR, {}), (_FAR, {"X-Forwarded-For": _NEAR})):
        answer = _send(front, tenant, client=client, headers=headers)
        assert (answer.status, _error(answer)["code"]) == (403, "address_not_allowed")


def test_a_preflight_is_answered_here_as_the_product_would_if_it_knew_all_keys(front: Proxy) -> None:
    asking = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    for path in (PATH, f"{PATH}/batch"):
        answer = ask(front, "OPTIONS", path, headers=asking)
        told = {name: answer.headers.get(name.lower()) for name in PREFLIGHT_HEADERS}
        assert (answer.status, told) == (204, PREFLIGHT_HEADERS)
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"
        assert answer.headers["vary"] == "Origin"

    # Any other OPTIONS is for the product, and so is the judgement about an event from that page.
    assert "POST" in ask(front, "OPTIONS", PATH).headers["allow"]
    elsewhere = ask(front, "OPTIONS", "/v1/projects", headers=asking).headers
    assert ("GET" in elsewhere["allow"], "access-control-allow-origin" in elsewhere) == (True, False)


def test_a_request_has_one_id_everywhere(front: Proxy) -> None:
    own = ask(front, "GET", "/v1/projects", headers={"X-Request-ID": "mine:1"})
    bad = ask(front, "GET", "/v1/projects", headers={"X-Request-ID": 'a"b'})

    assert (_error(own)["request_id"], _error(bad)["request_id"][:4]) == ("mine:1", "req_")
    wait_until(lambda: '"mine:1"' in front.logged() and f'"{bad.headers["x-request-id"]}"' in front.logged())


def test_the_log_has_each_request_and_no_key(front: Proxy, pair: list[Cell]) -> None:
    tenant = make_tenant(pair[1].context)
    headers = {"Referer": f"https://shop.example/?key={tenant.key}", "X-Request-ID": "logged"} | _JSON
    ask(front, "POST", f"{PATH}?key={tenant.key}", b"{}", headers)
    _send(front, tenant)
    ask(front, "GET", "/v1/projects", headers=tenant.bearer)

    (line,) = wait_until(lambda: [line for line in front.logged().splitlines() if '"logged"' in line])
    assert json.loads(line[line.index("{") :])["path"] == PATH
    assert "lrb_" not in front.logged()
    assert "key=" not in front.logged()


@pytest.mark.slow
def test_a_cell_that_is_away_hurts_its_own_keys_alone_and_one_of_two_servers_none(
    program: Program, pair: list[Cell], checkout: Path, tmp_path: Path
) -> None:
    tenants = [make_tenant(cell.context) for cell in pair]
    with ExitStack() as stack:
        ours, second, theirs = (stack.enter_context(_server(cell, checkout)) for cell in (pair[1], pair[1], pair[0]))
        ports = {"eu1": [theirs.port], "us1": [ours.port, second.port]}
        front = stack.enter_context(proxy(program, checkout, tmp_path / program, ports))
        # Connections to both servers are kept.
        assert {_send(front, tenant).status for _ in range(20) for tenant in tenants} == {201}

        _kill(ours)
        assert {_send(front, tenant).status for _ in range(40) for tenant in tenants} == {201}

        # The first cell, which gets what is of none: others do not need it, pages neither.
        _kill(theirs)
        for _ in range(10):
            answer = _send(front, tenants[0], headers={"Origin": "https://shop.example"})
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert (_error(answer)["code"], _error(answer)["retryable"]) == ("storage_unavailable", True)
            assert answer.headers["access-control-allow-origin"] == "https://shop.example"
            ask(front, "POST", f"{PATH}?key={tenants[0].key}", b"{}", _JSON)
            assert _send(front, tenants[1]).status == 201
        asking = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
        assert ask(front, "OPTIONS", PATH, headers=asking).status == 204
        wait_until(lambda: '"status":503' in front.logged())
        assert "lrb_" not in front.logged()


def test_an_event_that_a_server_may_have_stored_is_sent_to_no_other(
    program: Program, checkout: Path, tmp_path: Path
) -> None:
    with breaking_server() as one, breaking_server() as other:
        servers = {"eu1": [one.port, other.port], "us1": [one.port]}
        with proxy(program, checkout, tmp_path / program, servers) as front:
            answers = [ask(front, "POST", PATH, b"{}", _JSON | {"Idempotency-Key": "a"}) for _ in range(2)]

    assert [(answer.status, _error(answer)["code"]) for answer in answers] == [(503, "storage_unavailable")] * 2
    assert ["unknown until" in _error(answer)["message"] for answer in answers] == [True] * 2
    assert len(one.bodies) + len(other.bodies) == 2


def test_no_server_waits_for_a_slow_client(program: Program, checkout: Path, tmp_path: Path) -> None:
    with (
        breaking_server() as server,
        proxy(program, checkout, tmp_path / program, {"eu1": [server.port], "us1": [server.port]}) as front,
        socket.create_connection((_PROXY, front.port)) as slow,
    ):
        slow.sendall(f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nslow".encode())
        ask(front, "POST", PATH, b"quick")
        assert server.bodies == [b"quick"]
        assert server.begun == 1

        slow.sendall(b"slow")
        assert slow.recv(12) == b"HTTP/1.1 503"
        assert server.bodies == [b"quick", b"slowslow"]


def _batch_of(tenant: Tenant, size: int) -> bytes:
    """NDJSON of so many bytes."""
    whole = json.dumps(event_for(tenant, payload={"text": ""}))
    line, rest = divmod(size, _EVENTS)
    lines = [whole.replace('""', f'"{"x" * (line - len(whole) - 1)}"') for _ in range(_EVENTS)]
    return "\n".join([*lines, " " * rest]).encode()[:size]


def _id_in(credential: str) -> str:
    return credential[: KEY_ID.stop]


def _kill(server: LiveServer) -> None:
    os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait()
    wait_until(lambda: not _listens(server.port))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((_PROXY, port)) == 0
