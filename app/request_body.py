"""Reads a request's body: whole, expanded if it came compressed, and never larger than it may be."""

from contextlib import suppress

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge

from app.content_encoding import encoding_of, expand
from app.context import context
from app.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType

_ENDED_EARLY = "The body ended before its Content-Length."


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

    Raises UnsupportedContentEncoding before it reads, PayloadTooLarge as soon as it is too much, and BadRequest if
    the caller went away before the end or the body cannot be expanded.
    """
    if bytes_max is None:
        bytes_max = context().settings.request_bytes_max
    encoding = encoding_of(request.headers.get("Content-Encoding", ""))
    # Werkzeug cuts a chunked body off at its limit in silence and refuses only a declared length above it. With a
    # limit one byte higher, a body that was cut is a body that is too large.
    request.max_content_length = bytes_max + 1
    with suppress(RequestEntityTooLarge):
        if encoding is not None:
            return expand(_read, encoding, compressed_bytes_max=bytes_max, expanded_bytes_max=bytes_max)
        body = request.get_data(cache=False)
        if len(body) < (request.content_length or 0):
            raise BadRequest(_ENDED_EARLY)
        if len(body) <= bytes_max:
            return body
    raise PayloadTooLarge(f"The {'compressed ' if encoding else ''}body is larger than {bytes_max} bytes.")


def _read(size: int) -> bytes:
    """The next bytes of the body as it was sent, none at its end."""
    chunk = request.stream.read(size)
    # A gzip stream can be whole where the body is not.
    if not chunk and request.stream.tell() < (request.content_length or 0):
        raise BadRequest(_ENDED_EARLY)
    return chunk
