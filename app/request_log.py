"""One wide line per request, and the request id that ties it to the caller's own logs."""

import logging
import re
import time
import uuid

import structlog
from flask import Flask, Response, g, request

_log = structlog.get_logger()

# What a caller's own request id may look like; anything else could break a log line or a header.
_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

# The web server takes a path of 400 KB; a log line does not.
_PATH_CHARACTERS_MAX = 500


def register(app: Flask) -> None:
    """Give every request of `app` its id and its line."""
    app.before_request(_begin)
    app.after_request(_end)


def request_id() -> str:
    """The caller's X-Request-ID if it is sane, else ours."""
    return str(g.request_id)


def _begin() -> None:
    proposed = request.headers.get("X-Request-ID", "")
    g.request_id = proposed if _SANE_REQUEST_ID.fullmatch(proposed) else f"req_{uuid.uuid4().hex}"
    g.began = time.perf_counter()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(
        request_id=g.request_id,
        method=request.method,
        path=request.path[:_PATH_CHARACTERS_MAX],
        remote_address=request.remote_addr,
    )


def _end(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.request_id
    if request.method == "OPTIONS":
        del response.headers["Content-Type"]  # Flask's own answer says text/html of no body at all
    if request.endpoint not in ("health.healthz", "health.readyz"):
        milliseconds = round((time.perf_counter() - g.began) * 1000, 2)
        event_name = structlog.contextvars.get_contextvars().get("outcome") or "request_finished"
        structlog.contextvars.unbind_contextvars("outcome")
        level = logging.WARNING if response.status_code >= 500 else logging.INFO
        _log.log(level, event_name, status=response.status_code, milliseconds=milliseconds)
    return response
