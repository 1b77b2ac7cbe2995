"""The API as a whole: the OpenAPI document, and every blueprint with the credential that opens it."""

from typing import Any, Final

from flask import Flask, Response, json
from flask_smorest import Api

from app.ingest import openapi as ingest_openapi
from app.ingest import routes as ingest
from app.management.blueprints import BLUEPRINTS as MANAGEMENT
from app.management.common.openapi_links import Links
from app.monitoring import metrics_route
from app.web import health, openapi, pages

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
    """smorest without its own errors and pages: problems.py renders errors, management/common/paging.py pages."""

    DEFAULT_ERROR_RESPONSE_NAME = None
    _document: str | None = None

    def _openapi_json(self) -> Response:
        """The document, which nothing changes once the application is up; writing it takes longer than any request."""
        if self._document is None:
            self._document = json.dumps(self.spec.to_dict(), indent=2, sort_keys=False)
        return Response(self._document, mimetype="application/json", headers={"X-Content-Type-Options": "nosniff"})

    def _register_error_handlers(self) -> None:
        """Nothing to do here."""

    def _register_responses(self) -> None:
        """Nothing to document here."""

    def _register_pagination_header(self) -> None:
        """Nothing to document here."""


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
    links = Links({name: each for blueprint in MANAGEMENT for name, each in blueprint.operations.items()})
    info = {"description": _DESCRIPTION, "license": _LICENSE}
    api = _Api(app, spec_kwargs={"info": info, "servers": _SERVERS, "extra_plugins": [links]})
    for name, schema in {**openapi.SCHEMAS, **ingest_openapi.SCHEMAS}.items():
        api.spec.components.schema(name, schema)
    for name, header in openapi.HEADERS.items():
        api.spec.components.header(name, header)
    for name, example in openapi.examples().items():
        api.spec.components.example(name, example)
    for name, scheme in _SECURITY.items():
        api.spec.components.security_scheme(name, scheme)
    # Which credential opens which door: the blueprints of MANAGEMENT carry the guard, ingest proves its key on the
    # road itself, metrics may have a token of their own, and health is open.
    # In the order in which a reader wants to meet them.
    doors: list[Any] = [ingest.blueprint, *MANAGEMENT, metrics_route.blueprint, health.blueprint]
    for blueprint in doors:
        api.register_blueprint(blueprint)
    app.register_blueprint(pages.blueprint)
