"""POST /v1/events/ingest on the real server: requests as no client library would send them."""

import gzip
import json
import socket
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from threading import Event, Thread

import psutil
import pytest

from app.context import Context
from tests.support.live import Answer, LiveServer
from tests.support.people import Tenant, events_of
from tests.support.sending import PATH, event_for

_MEBIBYTE = 1_048_576


@pytest.fixture(autouse=True)
def _the_next_request_is_unharmed(live: LiveServer, context: Context, alice: Tenant) -> Iterator[None]:
    yield
    stored = len(events_of(context, alice))
    answer = live.request("POST", PATH, json.dumps(event_for(alice)).encode(), _headers(alice))
    assert answer.status == 201
    assert len(events_of(context, alice)) == stored + 1


def test_a_chunked_body_of_ordinary_size_works(live: LiveServer, context: Context, alice: Tenant) -> None:
    body = json.dumps(event_for(alice, payload={"text": "x" * 100_000})).encode()
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (body[n : n + 777] for n in range(0, len(body), 777))
    )

    answer = _raw(live, _head(alice, "Transfer-Encoding: chunked") + chunks + b"0\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 201 ")
    assert len(events_of(context, alice)) == 1


def test_an_endless_chunked_body_is_cut_off_with_a_413(live: LiveServer, context: Context, alice: Tenant) -> None:
    before = _memory(live)
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"

    answer = _raw(live, _head(alice, "Transfer-Encoding: chunked"), endless=chunk)

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"application/json" in answer
    assert _memory(live) - before < 50 * _MEBIBYTE
    assert events_of(context, alice) == []


def test_an_endless_compressed_body_is_cut_off_with_a_413(live: LiveServer, context: Context, alice: Tenant) -> None:
    before = _memory(live)
    encoder = zlib.compressobj(9, wbits=31)
    zeros = encoder.compress(bytes(_MEBIBYTE)) + encoder.flush(zlib.Z_FULL_FLUSH)
    head = _head(alice, "Transfer-Encoding: chunked", "Content-Encoding: gzip")

    answer = _raw(live, head, endless=b"%x\r\n%s\r\n" % (len(zeros), zeros))

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert _memory(live) - before < 50 * _MEBIBYTE
    assert events_of(context, alice) == []


def test_two_content_encoding_headers_are_refused(live: LiveServer, alice: Tenant) -> None:
    body = gzip.compress(json.dumps(event_for(alice)).encode())
    length = f"Content-Length: {len(body)}"

    assert _raw(live, _head(alice, length, "Content-Encoding: gzip") + body).startswith(b"HTTP/1.1 201 ")
    twice = _head(alice, length, "Content-Encoding: gzip", "Content-Encoding: gzip")
    assert _raw(live, twice + body).startswith(b"HTTP/1.1 415 ")


def test_ten_megabytes_are_refused_without_being_kept(live: LiveServer, alice: Tenant) -> None:
    before = _memory(live)

    answer = _raw(live, _head(alice, "Content-Length: 10000000"), endless=b"x" * 65_536)

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert _memory(live) - before < 50 * _MEBIBYTE


def test_an_endless_body_under_a_wrong_key_is_refused_for_its_key(live: LiveServer, alice: Tenant) -> None:
    head = _head(alice, "Transfer-Encoding: chunked").replace(alice.key.encode(), b"wrong")

    answer = _raw(live, head, endless=b"10000\r\n" + b"x" * 65_536 + b"\r\n")

    assert answer.startswith(b"HTTP/1.1 401 ")


def test_a_key_of_one_megabyte_is_a_clear_4xx(live: LiveServer, alice: Tenant) -> None:
    request = _head(alice, "Content-Length: 2").replace(alice.key.encode(), b"k" * 1_000_000) + b"{}"

    answer = _raw(live, request)

    assert answer.split(b" ", 2)[1] in (b"401", b"431")


def test_a_key_of_100_kilobytes_is_a_401(live: LiveServer, alice: Tenant) -> None:
    request = _head(alice, "Content-Length: 2").replace(alice.key.encode(), b"k" * 100_000) + b"{}"

    assert _raw(live, request).startswith(b"HTTP/1.1 401 ")


def test_two_idempotency_key_headers_are_refused(live: LiveServer, alice: Tenant) -> None:
    head = _head(alice, "Content-Length: 2", "Idempotency-Key: a", "Idempotency-Key: b")

    answer = _raw(live, head + b"{}")

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"send the header once" in answer


def test_bytes_that_are_not_ascii_in_headers_are_refused_not_crashed_on(live: LiveServer, alice: Tenant) -> None:
    for header in ("Idempotency-Key: \xff\xfe", "X-Request-ID: \xff", "Content-Encoding: \xff"):
        body = json.dumps(event_for(alice)).encode()
        answer = _raw(live, _head(alice, f"Content-Length: {len(body)}", header) + body)
        assert answer.split(b" ", 2)[1] in (b"201", b"400", b"415")


@pytest.mark.parametrize("length", ["-1", "x", "1e3"])
def test_a_nonsense_content_length_is_a_400(live: LiveServer, alice: Tenant, length: str) -> None:
    assert _raw(live, _head(alice, f"Content-Length: {length}") + b"{}").startswith(b"HTTP/1.1 400 ")


def test_a_body_that_ends_early_stores_nothing(live: LiveServer, context: Context, alice: Tenant) -> None:
    """The bytes that arrive are a whole event; what the client announced is more."""
    body = json.dumps(event_for(alice)).encode()
    with closing(socket.create_connection(("127.0.0.1", live.port), timeout=20)) as connection:
        connection.sendall(_head(alice, f"Content-Length: {len(body) + 10}") + body)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(65_536)

    assert not answer.startswith(b"HTTP/1.1 2")
    assert events_of(context, alice) == []


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1/events/ingest/", "/v1/nothing", "/v1/%00", "/%ff", "//", "/v1/nothing?x=%ff"]
)
@pytest.mark.parametrize("method", ["GET", "PUT", "BREW"])
def test_every_answer_of_the_product_has_the_one_error_body(live: LiveServer, method: str, path: str) -> None:
    answer = live.request(method, path)

    assert answer.status in (404, 405)
    assert _is_error_body(answer)


def _is_error_body(answer: Answer) -> bool:
    error = json.loads(answer.body)["error"]
    return (
        set(error) == {"code", "message", "request_id", "retryable"}
        and error["request_id"] == answer.headers["x-request-id"]
    )


def _headers(tenant: Tenant) -> dict[str, str]:
    return {"Content-Type": "application/json", "X-API-Key": tenant.key}


def _head(tenant: Tenant, *lines: str) -> bytes:
    fixed = [
        f"POST {PATH} HTTP/1.1",
        "Host: test",
        "Content-Type: application/json",
        f"X-API-Key: {tenant.key}",
    ]
    return "\r\n".join([*fixed, *lines, "", ""]).encode("latin-1")


def _raw(live: LiveServer, request: bytes, *, endless: bytes = b"") -> bytes:
    """Send bytes, then `endless` again and again until the server answers; return the answer's head and, but for a
    server that hangs up on what it does not want to read, its body."""
    with closing(socket.create_connection(("127.0.0.1", live.port), timeout=20)) as connection:
        answered = Event()

        def keep_sending() -> None:
            with suppress(OSError):
                connection.sendall(request)
                while endless and not answered.is_set():
                    connection.sendall(endless)

        sender = Thread(target=keep_sending)
        sender.start()
        try:
            answer = connection.recv(65_536)
            with suppress(OSError):
                while not endless and b"}" not in answer and (more := connection.recv(65_536)):
                    answer += more
            return answer
        finally:
            answered.set()
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            sender.join()


def _memory(live: LiveServer) -> int:
    parent = psutil.Process(live.process.pid)
    return sum(process.memory_info().rss for process in [parent, *parent.children(recursive=True)])
