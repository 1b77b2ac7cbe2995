"""Speaks to a server as no HTTP library would: bytes as they are, and ends of connections of every kind."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse

from tests.support.live import Answer, read

_HEADERS, _SETTINGS, _END_HEADERS = 1, 4, 4


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        yield connection


def exchange(port: int, *pieces: bytes, half_close: bool = False) -> Answer:
    """Send `pieces`, and read the answer; `half_close` says before that there is nothing more to come."""
    with connected(port) as connection:
        for piece in pieces:
            connection.sendall(piece)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        return answer_on(connection)


def answer_on(connection: socket.socket) -> Answer:
    response = HTTPResponse(connection)
    response.begin()
    return read(response)


def hang_up(port: int, *pieces: bytes, reset: bool = False) -> None:
    """Send `pieces` and go away: in order, or with a reset."""
    with connected(port) as connection:
        for piece in pieces:
            connection.sendall(piece)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def head(method: str, path: str, *lines: str, host: str | None = "x") -> bytes:
    """The head of a request, with its empty line."""
    named = [f"Host: {host}"] if host is not None else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", *named, *lines, "", ""]).encode("latin-1")


def chunk(body: bytes) -> bytes:
    return f"{len(body):x}\r\n".encode() + body + b"\r\n"


LAST_CHUNK = b"0\r\n\r\n"


def http_2_request(path: str, headers: dict[str, str]) -> bytes:
    """The beginning of a connection of HTTP/2 and of its first stream, up to the body."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + http_2_frame(_SETTINGS, b"", stream=0)
    return preface + http_2_stream(1, path, headers)


def http_2_stream(stream: int, path: str, headers: dict[str, str]) -> bytes:
    """The beginning of a stream, without compression."""
    named = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x"} | headers
    # RFC 7541 §6.2.2: a literal with a new name, both as they are. Lengths of less than 127 take a byte.
    block = b"".join(
        bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in named.items()
    )
    return http_2_frame(_HEADERS, block, _END_HEADERS, stream=stream)


def http_2_frame(kind: int, payload: bytes, flags: int = 0, *, stream: int = 1) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload
