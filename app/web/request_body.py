"""Reads a request's body: whole, expanded if it came compressed, and never larger than it may be.

Whatever is not proven to be whole raises: of a body that was cut, nothing is stored.
"""

import time
from contextlib import suppress
from typing import Final

from flask import Response, g, request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from app.context import current_context
from app.errors import BadRequest, BodyTimeout, LengthRequired, PayloadTooLarge, Refusal, UnsupportedMediaType
from app.wire.body_reads import BODY_IS_WHOLE, BODY_REFUSAL, ENDED_EARLY, patience
from app.wire.content_encoding import Encoding, encoding_of, expand

_UNWANTED_BYTES_MAX: Final = 16 * 1024 * 1024
_UNWANTED_SECONDS: Final = 5.0
# A client that is sending sends again within it.
_UNWANTED_PAUSE_SECONDS: Final = 1.0


def check_media_type(*accepted: str) -> str:
    """Which of `accepted` (plain JSON if none is given) the headers announce, else raise UnsupportedMediaType."""
    accepted = accepted or ("application/json",)
    if request.mimetype not in accepted:
        raise UnsupportedMediaType(f"Send Content-Type: {' or '.join(accepted)}, in UTF-8.")
    if request.mimetype_params.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise UnsupportedMediaType("The charset must be utf-8.")
    return request.mimetype


def read_bytes(bytes_max: int | None = None) -> bytes:
    """The whole body, without its Content-Encoding; neither what is sent nor what it expands to may be larger than
    `bytes_max`, which is the setting's request_bytes_max if not given.

    Raises UnsupportedContentEncoding before it reads, PayloadTooLarge as soon as it is too much, BadRequest if the
    caller went away before the end or the body cannot be expanded, and StorageUnavailable if too many have stalled.
    """
    if bytes_max is None:
        bytes_max = current_context().settings.request_bytes_max
    encoding = encoding_of(request.headers.get("Content-Encoding", ""))
    refusal: Exception | None = request.environ.get(BODY_REFUSAL)
    if refusal is not None:
        raise refusal
    if BODY_IS_WHOLE in request.environ:
        return _read_all(bytes_max, encoding)
    # Its WSGI ends a chunked body that was cut as if it were whole; its adapter (app/granian) knows better.
    if request.content_length is None and request.environ.get("SERVER_SOFTWARE") == "Granian":
        if "Transfer-Encoding" not in request.headers:
            return b""
        raise LengthRequired
    context = current_context()
    with context.body_reads.reading(g.get("body_owner")), patience(request.environ, context.settings.body_seconds):
        try:
            return _read_all(bytes_max, encoding)
        except ClientDisconnected as error:
            raise BodyTimeout if isinstance(error.__context__, TimeoutError) else BadRequest(ENDED_EARLY) from error


def discard_rest(response: Response) -> Response:
    """Read what a refused client is still sending, up to a bound: else it meets a closed connection, not the answer.

    Only where a read can be told how long to wait, and not if it is refused because too much is being read.
    """
    environ = request.environ
    if response.status_code < 400 or response.status_code == 503 or BODY_IS_WHOLE in environ:
        return response
    if "gunicorn.socket" in environ:
        stream, size = environ["wsgi.input"], 0
        deadline = time.monotonic() + _UNWANTED_SECONDS
        with (
            suppress(Refusal, OSError),
            current_context().body_reads.reading(None),
            patience(environ, _UNWANTED_PAUSE_SECONDS),
        ):
            while size < _UNWANTED_BYTES_MAX and time.monotonic() < deadline and (piece := stream.read(65_536)):
                size += len(piece)
    return response


def _read_all(bytes_max: int, encoding: Encoding | None) -> bytes:
    # Werkzeug cuts a chunked body off at its limit in silence and refuses only a declared length above it. With a
    # limit one byte higher, a body that was cut is a body that is too large.
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
    """The next bytes of the body as it was sent, none at its end."""
    chunk = request.stream.read(size)
    # A gzip stream can be whole where the body is not.
    if not chunk and request.stream.tell() < (request.content_length or 0):
        raise BadRequest(ENDED_EARLY)
    return chunk
