"""Reads a request's body: whole, expanded if it is compressed, and no larger than allowed.

A body that is not proven to be whole raises: of a body that was cut, nothing is stored.
"""

import socket
import time
from contextlib import suppress
from typing import Any, Final

from flask import Response, g, request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from app.context import current_context
from app.errors import BadRequest, BodyTimeout, PayloadTooLarge, StorageUnavailable, UnsupportedMediaType
from app.wire.body_reads import BODY_IS_WHOLE, BODY_REFUSAL, ENDED_EARLY, patience
from app.wire.content_encoding import Encoding, encoding_of, expand

_UNWANTED_BYTES_MAX: Final = 16 * 1024 * 1024
_UNWANTED_SECONDS: Final = 5.0
# A client that still sends has sent something within a second.
_UNWANTED_PAUSE_SECONDS: Final = 1.0


def check_media_type(*accepted: str) -> str:
    """The one of `accepted` (by default plain JSON) that the headers announce. Raises UnsupportedMediaType."""
    accepted = accepted or ("application/json",)
    if request.mimetype not in accepted:
        raise UnsupportedMediaType(f"Send Content-Type: {' or '.join(accepted)}, in UTF-8.")
    if request.mimetype_params.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise UnsupportedMediaType("The charset must be utf-8.")
    return request.mimetype


def read_bytes(bytes_max: int | None = None) -> bytes:
    """The whole body, without its Content-Encoding.

    Neither the body as sent nor as expanded may be larger than `bytes_max`, by default the setting request_bytes_max.
    Raises UnsupportedContentEncoding before it reads, PayloadTooLarge at the first byte too many, BadRequest if the
    body ended early or cannot be expanded, BodyTimeout, and StorageUnavailable if too many bodies have stalled.
    """
    if bytes_max is None:
        bytes_max = current_context().settings.request_bytes_max
    encoding = encoding_of(request.headers.get("Content-Encoding", ""))
    refusal: Exception | None = request.environ.get(BODY_REFUSAL)
    if refusal is not None:
        raise refusal
    if BODY_IS_WHOLE in request.environ:
        return _read_all(bytes_max, encoding)
    context = current_context()
    with context.body_reads.reading(g.get("body_owner")), patience(request.environ, context.settings.body_seconds):
        try:
            return _read_all(bytes_max, encoding)
        except ClientDisconnected as error:
            raise BodyTimeout if isinstance(error.__context__, TimeoutError) else BadRequest(ENDED_EARLY) from error


def discard_rest(response: Response) -> Response:
    """Read what is left of the body, up to a bound, where a read can have a time-out (gunicorn).

    A client that is still sending would see a closed connection, and not its refusal. What has stalled is given up:
    gunicorn would wait for the rest, five seconds on a thread and two in its main loop, so that the refused bodies of
    one key would hold up a process.
    """
    environ = request.environ
    connection: socket.socket | None = environ.get("gunicorn.socket")
    if connection is None or BODY_IS_WHOLE in environ:
        return response
    try:
        with current_context().body_reads.reading(None):
            is_at_end = _discard(environ, 0.0 if response.status_code == 503 else _UNWANTED_PAUSE_SECONDS)
    except StorageUnavailable:
        is_at_end = _discard(environ, 0.0)
    if not is_at_end:
        with suppress(OSError):
            # Not the method of an SSLSocket, which would end the encryption of the response too.
            socket.socket.shutdown(connection, socket.SHUT_RD)
    return response


def _discard(environ: dict[str, Any], pause_seconds: float) -> bool:
    """Whether the end was reached; reads on while the next bytes come within the pause."""
    size, deadline = 0, time.monotonic() + _UNWANTED_SECONDS
    with suppress(Exception), patience(environ, pause_seconds):  # the connection's error, or gunicorn's for a bad chunk
        while size < _UNWANTED_BYTES_MAX and time.monotonic() < deadline:
            if not (piece := environ["wsgi.input"].read(65_536)):
                return True
            size += len(piece)
    return False


def _read_all(bytes_max: int, encoding: Encoding | None) -> bytes:
    # Werkzeug cuts a chunked body at its limit without an error, and refuses only a declared length above it. With a
    # limit one byte higher, a body that was cut is recognised as too large.
    request.max_content_length = bytes_max + 1
    with suppress(RequestEntityTooLarge):
        if encoding is not None:
            return expand(_read, encoding, compressed_bytes_max=bytes_max, expanded_bytes_max=bytes_max)
        body = request.get_data(cache=False)
        if len(body) < (request.content_length or 0):
            raise BadRequest(ENDED_EARLY)
        if len(body) <= bytes_max:
            return body
    raise PayloadTooLarge(f"The {'compressed ' if encoding else ''}body is larger than {bytes_max} bytes.")


def _read(size: int) -> bytes:
    """The next bytes of the body as it was sent; none at its end."""
    chunk = request.stream.read(size)
    # A gzip stream can be whole although the body is not.
    if not chunk and request.stream.tell() < (request.content_length or 0):
        raise BadRequest(ENDED_EARLY)
    return chunk
