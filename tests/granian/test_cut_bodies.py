"""Of a body that did not end nothing is stored, however it broke off; and what came whole can be sent again."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from app.config import Settings
from app.context import Context
from tests.support.live import Answer, LiveServer, gunicorn_server, live_server
from tests.support.people import Tenant, events_of
from tests.support.raw_http import (
    LAST_CHUNK,
    chunk,
    connected,
    exchange,
    hang_up,
    head,
    http_2_frame,
    http_2_request,
    http_2_stream,
)
from tests.support.sending import PATH, event_for
from tests.support.waiting import wait_until

_BATCH = f"{PATH}/batch"
_NDJSON = "Content-Type: application/x-ndjson"
_JSON = "Content-Type: application/json"
_CHUNKED = "Transfer-Encoding: chunked"
# Of HTTP/2 (RFC 9113 §6).
_DATA, _RST_STREAM, _END_STREAM = 0, 3, 1

Cut = Callable[[int, bytes], object]

# How a chunked body ends otherwise than by its last chunk, after a whole line.
_CUTS: dict[str, Cut] = {
    "closed": hang_up,
    "reset": lambda port, sent: hang_up(port, sent, reset=True),
    "half closed": lambda port, sent: exchange(port, sent, half_close=True),
    "a chunk size that is none": lambda port, sent: exchange(port, sent, b"zz\r\n"),
    "a chunk that breaks off": lambda port, sent: exchange(port, sent, b"40\r\n{", half_close=True),
    "no end of a chunk": lambda port, sent: exchange(port, sent, b"1\r\n\nxx"),
}


@pytest.fixture(name="lines")
def _lines(alice: Tenant) -> list[bytes]:
    return [json.dumps(event_for(alice, event_id=f"e{n}")).encode() + b"\n" for n in range(3)]


@pytest.mark.parametrize("cut", _CUTS.values(), ids=_CUTS)
@pytest.mark.parametrize("query", ["", "?atomic=true"])
def test_a_batch_that_is_cut_stores_nothing_and_its_retry_is_taken(
    live: LiveServer, context: Context, alice: Tenant, lines: list[bytes], query: str, cut: Cut
) -> None:
    start = head("POST", _BATCH + query, f"X-API-Key: {alice.key}", "Idempotency-Key: import-1", _NDJSON, _CHUNKED)
    cut(live.port, start + chunk(lines[0]))

    whole = exchange(live.port, start + chunk(b"".join(lines)) + LAST_CHUNK)

    assert whole.status == 200, whole.body
    assert "idempotent-replayed" not in whole.headers
    assert len(events_of(context, alice)) == 3


@pytest.mark.parametrize("cut", _CUTS.values(), ids=_CUTS)
def test_a_chunked_event_that_is_cut_is_not_stored(
    live: LiveServer, context: Context, alice: Tenant, lines: list[bytes], cut: Cut
) -> None:
    start = head("POST", PATH, f"X-API-Key: {alice.key}", "Idempotency-Key: once", _JSON, _CHUNKED)
    cut(live.port, start + chunk(lines[0]))

    # The server has done with the first request when it has answered a second one with its key.
    assert exchange(live.port, start + chunk(lines[1]) + LAST_CHUNK).status == 201
    assert [event.event_id for event in events_of(context, alice)] == ["e1"]


def test_http_2_is_not_spoken(live: LiveServer, alice: Tenant) -> None:
    """An empty frame at the end of a whole body looks like a stream that was reset."""
    with connected(live.port) as connection:
        connection.sendall(http_2_request(_BATCH, {"x-api-key": alice.key}))
        assert connection.recv(65_536)[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 505")


def test_where_it_is_spoken_all_the_same_a_stream_that_is_reset_stores_nothing(
    settings: Settings, checkout: Path, context: Context, alice: Tenant, lines: list[bytes]
) -> None:
    own = replace(settings, database_pool_size=8)
    with live_server(own, checkout, http="auto") as server, connected(server.port) as connection:
        connection.sendall(http_2_request(_BATCH, {"content-type": "application/x-ndjson", "x-api-key": alice.key}))
        connection.sendall(http_2_frame(_DATA, lines[0]) + http_2_frame(_RST_STREAM, b"\0\0\0\x08"))
        connection.sendall(http_2_stream(3, _BATCH, {"content-type": "application/x-ndjson", "x-api-key": alice.key}))
        connection.sendall(http_2_frame(_DATA, lines[1], _END_STREAM, stream=3))
        wait_until(lambda: events_of(context, alice))

    assert [event.event_id for event in events_of(context, alice)] == ["e1"]


@pytest.mark.parametrize("cut", [hang_up, _CUTS["reset"], _CUTS["half closed"]], ids=["closed", "reset", "half closed"])
def test_an_event_shorter_than_its_length_is_not_stored(
    live: LiveServer, context: Context, alice: Tenant, lines: list[bytes], cut: Cut
) -> None:
    lengths = [len(line) + extra for line, extra in zip(lines, (5, 0, 0), strict=True)]
    starts = [head("POST", PATH, f"X-API-Key: {alice.key}", _JSON, f"Content-Length: {length}") for length in lengths]
    cut(live.port, starts[0] + lines[0])

    assert exchange(live.port, starts[1] + lines[1]).status == 201
    assert [event.event_id for event in events_of(context, alice)] == ["e1"]


def test_a_client_that_is_still_there_hears_that_nothing_was_stored(
    live: LiveServer, alice: Tenant, lines: list[bytes]
) -> None:
    start = head("POST", _BATCH, f"X-API-Key: {alice.key}", _NDJSON, _CHUNKED)

    answer = exchange(live.port, start + chunk(lines[0]), half_close=True)

    assert (answer.status, _code(answer)) == (400, "bad_request")


def test_bodies_in_many_chunks_and_of_any_size_come_whole(live: LiveServer, context: Context, alice: Tenant) -> None:
    big = json.dumps(event_for(alice, event_id="big", payload={"text": "x" * 200_000})).encode()
    start = [f"X-API-Key: {alice.key}", _JSON]

    pieces = [chunk(big[place : place + 7_000]) for place in range(0, len(big), 7_000)]
    assert exchange(live.port, head("POST", PATH, *start, _CHUNKED), *pieces, LAST_CHUNK).status == 201
    assert exchange(live.port, head("POST", PATH, *start, f"Content-Length: {len(big)}"), big).status == 200
    assert len(events_of(context, alice)) == 1


@pytest.mark.slow
def test_gunicorn_stores_nothing_of_what_was_cut(
    settings: Settings, checkout: Path, context: Context, alice: Tenant, lines: list[bytes]
) -> None:
    key = f"X-API-Key: {alice.key}"
    with gunicorn_server(settings, checkout) as server:
        for cut in _CUTS.values():
            cut(server.port, head("POST", _BATCH, key, _NDJSON, _CHUNKED) + chunk(lines[0]))
            cut(server.port, head("POST", PATH, key, _JSON, _CHUNKED) + chunk(lines[0]))
        long = head("POST", PATH, key, _JSON, f"Content-Length: {len(lines[0]) + 5}") + lines[0]
        assert exchange(server.port, long, half_close=True).status == 400
        assert exchange(server.port, head("POST", _BATCH, key, _NDJSON, _CHUNKED), chunk(lines[1]), LAST_CHUNK).status

    assert [event.event_id for event in events_of(context, alice)] == ["e1"]


def test_granian_without_the_adapter_takes_a_length_and_no_chunks(
    settings: Settings,
    checkout: Path,
    context: Context,
    alice: Tenant,
    lines: list[bytes],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Its WSGI ends a body that was cut as if it were whole, and it says once that the adapter is missing."""
    key = f"X-API-Key: {alice.key}"
    with live_server(settings, checkout, adapter=False) as server:
        answer = exchange(server.port, head("POST", _BATCH, key, _NDJSON, _CHUNKED), chunk(lines[0]), LAST_CHUNK)
        assert (answer.status, _code(answer)) == (411, "length_required")
        length = f"Content-Length: {len(lines[0]) + 5}"
        hang_up(server.port, head("POST", PATH, key, _JSON, length) + lines[0])
        assert (
            exchange(server.port, head("POST", PATH, key, _JSON, f"Content-Length: {len(lines[1])}"), lines[1]).status
            == 201
        )

    assert [event.event_id for event in events_of(context, alice)] == ["e1"]
    assert capfd.readouterr().err.count("granian_without_adapter") == 1


def _code(answer: Answer) -> str:
    code: str = json.loads(answer.body)["error"]["code"]
    return code
