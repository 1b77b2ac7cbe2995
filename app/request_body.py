"""Reads a request's body: JSON in UTF-8, uncompressed, whole, and no larger than the settings allow."""

from contextlib import suppress

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge

from app.context import context
from app.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType


def check_media_type() -> None:
    """Raise UnsupportedMediaType unless the headers announce plain JSON."""
    if request.mimetype != "application/json":
        raise UnsupportedMediaType
    if request.mimetype_params.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise UnsupportedMediaType("The charset must be utf-8.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("Content-Encoding is not supported: send the JSON as it is.")


def read_bytes() -> bytes:
    """The whole body. Raises PayloadTooLarge, and BadRequest if the caller went away before its end."""
    # Werkzeug cuts a chunked body off at its limit in silence and refuses only a declared length above it. With a
    # limit one byte higher, a body that was cut is a body that is too large.
    bytes_max = context().settings.request_bytes_max
    request.max_content_length = bytes_max + 1
    with suppress(RequestEntityTooLarge):
        body = request.get_data(cache=False)
        if len(body) < (request.content_length or 0):
            raise BadRequest("The body ended before its Content-Length.")
        if len(body) <= bytes_max:
            return body
    raise PayloadTooLarge(f"The body is larger than {bytes_max} bytes.")
