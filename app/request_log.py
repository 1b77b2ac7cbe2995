"""One wide line per request, and the request id that ties it to the caller's own logs."""

import logging
import time

import structlog
from flask import Flask, Response, g, request

from app.request_lines import request_id_from

_log = structlog.get_logger()

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
    g.request_id = request_id_from(request.headers.get("X-Request-ID"))
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
