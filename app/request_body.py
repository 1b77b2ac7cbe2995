"""Reads a request's body: JSON in UTF-8, uncompressed, bounded by MAX_CONTENT_LENGTH."""

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge

from app.errors import PayloadTooLarge, UnsupportedMediaType


def check_media_type() -> None:
    """Raise UnsupportedMediaType unless the headers announce plain JSON."""
    if request.mimetype != "application/json":
        raise UnsupportedMediaType
    if request.mimetype_params.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise UnsupportedMediaType("The charset must be utf-8.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("Content-Encoding is not supported: send the JSON as it is.")


def read_bytes() -> bytes:
    """The whole body. Raises PayloadTooLarge."""
    try:
        return request.get_data(cache=False)
    except RequestEntityTooLarge:
        raise PayloadTooLarge(f"The body is larger than {request.max_content_length} bytes.") from None
