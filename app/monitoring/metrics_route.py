"""`GET /metrics`: the page that a monitoring system reads every few seconds."""

import hmac
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from flask import Flask, Response, current_app, request
from flask_smorest import Blueprint
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app.context import EXTENSION, Context, current_context
from app.errors import InvalidMetricsToken
from app.monitoring.shared_metrics import SharedMetrics
from app.monitoring.status_metrics import StatusMetrics
from app.telemetry import metrics
from app.web import openapi

METRICS: Final = "lariba.metrics"
_PLAIN: Final = "text/plain"
_OPENMETRICS: Final = "application/openmetrics-text"
_EXAMPLE: Final = """\
# HELP lariba_requests_total Answered requests, each once.
# TYPE lariba_requests_total counter
lariba_requests_total{method="POST",outcome="stored",route="/v1/events/ingest"} 2518894.0
"""
_CONTENT: Final[dict[str, Any]] = {"schema": {"type": "string"}, "example": _EXAMPLE}

blueprint = Blueprint("metrics", __name__, description="What monitoring asks")


def register(app: Flask) -> None:
    """Set up the page of `app`, whose Context must be there: metrics of the processes, then of the system status."""
    register_together([app])


def register_together(apps: Sequence[Flask]) -> None:
    """One page for the applications of several cells in one process; what the process counts is of all of them."""
    contexts: list[Context] = [app.extensions[EXTENSION] for app in apps]
    page = CollectorRegistry()
    folder = contexts[0].settings.metrics_dir
    names = ",".join(context.settings.cell for context in contexts)
    page.register(_InCells({names: SharedMetrics(folder) if folder else metrics.REGISTRY}))
    page.register(_InCells({each.settings.cell: StatusMetrics(each.database, each.settings) for each in contexts}))
    for app in apps:
        app.extensions[METRICS] = page


class _InCells(Collector):
    """What other collectors have, each sample with the name of its cell, if that has one."""

    def __init__(self, collectors: Mapping[str, Collector]) -> None:
        self._collectors = collectors

    def collect(self) -> Iterable[Metric]:
        found: dict[str, Metric] = {}
        for cell, collector in self._collectors.items():
            for metric in collector.collect():
                if cell:
                    metric.samples = [
                        sample._replace(labels={"cell": cell} | sample.labels) for sample in metric.samples
                    ]
                if metric.name in found:
                    found[metric.name].samples += metric.samples
                else:
                    found[metric.name] = metric
        return found.values()


@blueprint.route("/metrics", methods=["GET"])
@blueprint.doc(
    operationId="getMetrics",
    description="The page that Prometheus reads, for all web processes of a machine; plain text or OpenMetrics.",
    security=[{}, {"metricsToken": []}],
    responses={
        200: {
            "description": "Prometheus' text format, or OpenMetrics if the client accepts it",
            "headers": openapi.headers(),
            "content": {_PLAIN: _CONTENT, _OPENMETRICS: _CONTENT},
        },
        **openapi.refusal_responses([InvalidMetricsToken]),
    },
)
def metrics_page() -> Response:
    """The metrics of the processes and the worker; without a token unless LARIBA_METRICS_TOKEN is set."""
    _require_token(request.headers.get("Authorization"), current_context().settings.metrics_token)
    metrics.flush()
    try:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    except TypeError:
        # The library raises it for a version that is no number.
        encode, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
    return Response(encode(current_app.extensions[METRICS]), content_type=content_type)


def _require_token(header: str | None, token: str) -> None:
    """Raise InvalidMetricsToken unless `header` holds `token`, or `token` is empty."""
    if not token:
        return
    scheme, _, sent = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(sent.strip().encode(), token.encode()):
        raise InvalidMetricsToken
