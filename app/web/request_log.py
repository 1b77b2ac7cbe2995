"""The context of a request: its id, its client's address, one log line at its end, and its metrics."""

import logging
import re
import time
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, Final

import structlog
from flask import Flask, Response, g, request

from app.identifiers import request_id_from
from app.telemetry import metrics
from app.telemetry.access_log import Sampling, sampled
from app.wire.client_address import client_address

_log = structlog.get_logger()

# The web server accepts a path of 400 KB.
_PATH_CHARACTERS_MAX = 500
# Machines request these every few seconds.
_UNLOGGED: Final = ("health.healthz", "health.readyz", "metrics.metrics_page")
# The method and route in the metrics of a request that matches no route: its own would make labels without end.
_UNMATCHED: Final = "unmatched"
_ALL: Final = Sampling()


def register(app: Flask, trusted_proxies: tuple[str, ...] = (), sampling: Sampling = _ALL, cell: str = "") -> None:
    """Install the context in `app`. `sampling` decides which requests that succeed are logged."""
    app.before_request(partial(_begin, trusted_proxies, cell))
    app.after_request(partial(_end, sampling))


def request_id() -> str:
    """The caller's X-Request-ID if it is well-formed, else a new one."""
    return str(g.request_id)


def remote_address() -> str:
    """The client's IP address; "" if the request came over no network."""
    return str(g.remote_address)


def _begin(trusted_proxies: tuple[str, ...], cell: str) -> None:
    g.remote_address = client_address(request.environ, trusted_proxies)
    g.request_id = request_id_from(request.headers.get("X-Request-ID"))
    g.began = time.perf_counter()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(
        request_id=g.request_id,
        method=request.method,
        path=request.path[:_PATH_CHARACTERS_MAX],
        remote_address=g.remote_address,
        **({"cell": cell} if cell else {}),
    )


def _end(sampling: Sampling, response: Response) -> Response:
    response.headers["X-Request-ID"] = g.request_id
    if request.method == "OPTIONS" and response.status_code in (200, 204) and not response.get_data():
        # Flask's own response to OPTIONS has the status 200 and the type text/html, but no body.
        response.status_code = 204
        for name in ("Content-Type", "Content-Length"):
            response.headers.pop(name, None)
    seconds = time.perf_counter() - g.began
    bound = structlog.contextvars.get_contextvars()
    _count(_outcome(response.status_code, bound), seconds)
    if request.endpoint not in _UNLOGGED:
        _write(response.status_code, bound, round(seconds * 1000, 2), sampling)
    return response


def _write(status: int, bound: Mapping[str, Any], milliseconds: float, sampling: Sampling) -> None:
    event_name = bound.get("outcome") or "request_finished"
    structlog.contextvars.unbind_contextvars("outcome")
    times = sampling.stands_for(event_name, bound.get("key", ""), milliseconds) if status < 400 else 1
    if times:
        level = logging.WARNING if status >= 500 else logging.INFO
        _log.log(level, event_name, status=status, milliseconds=milliseconds, **sampled(times))


def _count(outcome: str, seconds: float) -> None:
    rule = request.url_rule
    if rule is None:
        metrics.count_request(_UNMATCHED, _UNMATCHED, outcome, seconds)
    else:
        metrics.count_request(request.method, _template(rule.rule), outcome, seconds)


def _outcome(status: int, bound: Mapping[str, Any]) -> str:
    """The error's code, or the outcome of the event or batch, or else the class of `status` (`2xx`)."""
    named = bound.get("error_code") if status >= 400 else metrics.OUTCOMES.get(bound.get("outcome", ""))
    return named or f"{status // 100}xx"


@lru_cache
def _template(rule: str) -> str:
    """Flask's `/v1/keys/<key_id>` in OpenAPI's spelling: `/v1/keys/{key_id}`."""
    return re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", r"{\1}", rule)
