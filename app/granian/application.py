"""Calls the WSGI application, and reads its response as far as a pipe holds it."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from app.granian.environ import Environ
from app.granian.streaming import PIPE_BYTES, Header
from app.ingest.fast_path import Application


class Response(NamedTuple):
    status: int
    headers: list[Header]
    body: bytes
    """All of it; or, if there is `rest`, the first part, which is more than a pipe holds."""
    rest: Iterator[bytes] | None
    close: Callable[[], object]
    """To be called when `rest` has been read or is given up."""


def respond(application: Application, environ: Environ) -> Response:
    """The response; read to its end, unless it is long and of unknown length."""
    started: list[tuple[str, list[Header]]] = []

    def start_response(status: str, headers: list[Header], _error: object = None) -> None:
        started.append((status, headers))

    answer = application(environ, start_response)
    close: Callable[[], object] = getattr(answer, "close", lambda: None)
    pieces = iter(answer)
    body = bytearray()
    has_length = bool(started) and any(name.lower() == "content-length" for name, _ in started[0][1])
    rest = None
    while (piece := next_piece(pieces)) is not None:
        body += piece
        if not has_length and len(body) > PIPE_BYTES:
            rest = pieces
            break
    else:
        close()
    status, headers = started[-1]
    return Response(int(status[:3]), headers, bytes(body), rest, close)


def next_piece(pieces: Iterator[bytes]) -> bytes | None:
    """The next piece; None at the end, or after an error, which the application has logged (docs/audit.md)."""
    with suppress(Exception):
        return next(pieces, None)
    return None
