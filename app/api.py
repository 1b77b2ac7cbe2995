"""The API as a whole: the OpenAPI document, and every blueprint with the credential that it takes."""

from typing import Any, Final

from flask import Flask, Response, json
from flask_smorest import Api
from werkzeug.exceptions import HTTPException

from app.events import routes as events
from app.events.consumers import routes as consumers
from app.events.counts import routes as counts
from app.events.exports import routes as exports
from app.events.feed import routes as feed
from app.events.replays import routes as replays
from app.ingest import routes as ingest
from app.management.blueprints import BLUEPRINTS as MANAGEMENT
from app.monitoring import metrics_route
from app.web import health, openapi, pages
from app.web.error_handlers import respond_to_framework
from app.web.openapi_links import add_links

TITLE: Final = "Lariba"
VERSION: Final = "v1"

_DESCRIPTION: Final = """\
Events in, exactly once; and who may send them.

Every answer has an X-Request-ID, and every error the one body `ErrorBody`; `code` is stable. HEAD goes wherever GET
does, and OPTIONS lists the methods of a path in Allow. A client must expect members, headers, codes and operations that
are added later; what is taken away is announced by Deprecation and Sunset before.
"""
_LICENSE: Final = {"name": "Apache 2.0", "identifier": "Apache-2.0"}
_SERVERS: Final = [{"url": "/", "description": "The installation that this document comes from"}]
_SECURITY: Final = {
    "sourceKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "A source key: lrb_sk_…"},
    "managementToken": {"type": "http", "scheme": "bearer", "description": "A management token: lrb_mt_…"},
    "metricsToken": {"type": "http", "scheme": "bearer", "description": "What LARIBA_METRICS_TOKEN says, if it is set"},
}


class _Api(Api):  # type: ignore[misc]
    """smorest with our error body and our error responses, which each operation documents by itself."""

    ERROR_SCHEMA = openapi.ErrorBodySchema
    DEFAULT_ERROR_RESPONSE_NAME = None
    _document: str | None = None

    def handle_http_exception(self, error: HTTPException) -> Response:
        """Answer as every other error; smorest registers this as the handler of every HTTPException."""
        return respond_to_framework(error)

    def _openapi_json(self) -> Response:
        """The document, written once per process: nothing changes it, and writing it takes longer than any request."""
        if self._document is None:
            document = self.spec.to_dict()
            add_links(document)
            self._document = json.dumps(document, indent=2, sort_keys=False)
        return Response(self._document, mimetype="application/json", headers={"X-Content-Type-Options": "nosniff"})

    def _register_pagination_header(self) -> None:
        """Leave smorest's own out: paging.py pages by cursor."""


def register(app: Flask) -> None:
    """Mount every blueprint, the OpenAPI document and the pages for people."""
    app.config.update(
        API_TITLE=TITLE,
        API_VERSION=VERSION,
        OPENAPI_VERSION="3.1.0",
        OPENAPI_URL_PREFIX="/",
        OPENAPI_JSON_PATH="openapi.json",
    )
    # `//v1//projects` is no address of ours; werkzeug would answer with a redirect in HTML.
    app.url_map.merge_slashes = False
    info = {"description": _DESCRIPTION, "license": _LICENSE}
    api = _Api(app, spec_kwargs={"info": info, "servers": _SERVERS})
    for name, header in openapi.HEADERS.items():
        api.spec.components.header(name, header)
    for name, example in openapi.refusal_examples().items():
        api.spec.components.example(name, example)
    for name, scheme in _SECURITY.items():
        api.spec.components.security_scheme(name, scheme)
    # In the order of the document. MANAGEMENT takes management tokens, ingest verifies source keys on its own path,
    # metrics may have a token, and health takes none.
    blueprints: list[Any] = [
        ingest.blueprint,
        events.blueprint,
        counts.blueprint,
        feed.blueprint,
        consumers.blueprint,
        exports.blueprint,
        replays.blueprint,
        *MANAGEMENT,
        metrics_route.blueprint,
        health.blueprint,
    ]
    for blueprint in blueprints:
        api.register_blueprint(blueprint)
    app.register_blueprint(pages.blueprint)
