"""Speaks to a server as no HTTP library would: bytes as they are, and ends of connections of every kind."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse

from tests.live import Answer, read


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
