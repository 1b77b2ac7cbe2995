"""Reads a request's body: whole, expanded if it is compressed, and no larger than allowed.

A body that is not proven to be whole raises: of a body that was cut, nothing is stored.
"""

from contextlib import suppress

from flask import Response, g, request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from app.context import current_context
from app.errors import BadRequest, BodyTimeout, PayloadTooLarge, UnsupportedMediaType
from app.wire.body_reads import BODY_IS_WHOLE, BODY_REFUSAL, ENDED_EARLY, discard_rest, patience
from app.wire.content_encoding import Encoding, encoding_of, expand


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


def discard_unread(response: Response) -> Response:
    """Read what the response did not need of the body, as discard_rest() does it."""
    if BODY_IS_WHOLE not in request.environ:
        waits = response.status_code not in (408, 503)
        discard_rest(request.environ, current_context().body_reads, waits=waits)
    return response


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
