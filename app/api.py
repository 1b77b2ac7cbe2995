"""The API as a whole: the OpenAPI document, and every blueprint with the credential that opens it."""

from typing import Any, Final

from flask import Flask
from flask_smorest import Api
from flask_swagger_ui import get_swaggerui_blueprint

from app import health
from app.ingest import routes as ingest
from app.management.routes import BLUEPRINTS as MANAGEMENT

TITLE: Final = "Lariba"
VERSION: Final = "v1"
_OPENAPI_PATH: Final = "/openapi.json"

_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "request_id", "retryable"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "request_id": {"type": "string"},
                "retryable": {"type": "boolean"},
                "details": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["pointer", "message"],
                        "properties": {"pointer": {"type": "string"}, "message": {"type": "string"}},
                    },
                },
            },
        }
    },
}
_SECURITY: Final = {
    "sourceKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "lrb_sk_…"},
    "managementToken": {"type": "http", "scheme": "bearer", "description": "lrb_mt_…"},
}
# Without a validatorUrl of null the page would show the document to a validator on the Internet.
_DOCS_PAGE: Final = {"app_name": TITLE, "persistAuthorization": True, "validatorUrl": None}


class _Api(Api):  # type: ignore[misc]
    """smorest without its own errors and pages: errors leave by problems.py, pages are management/pages.py's."""

    DEFAULT_ERROR_RESPONSE_NAME = None

    def _register_error_handlers(self) -> None:
        """Nothing to do here."""

    def _register_responses(self) -> None:
        """Nothing to document here."""

    def _register_pagination_header(self) -> None:
        """Nothing to document here."""


def register(app: Flask) -> None:
    """Mount every blueprint, the OpenAPI document and the docs page, which needs nothing from the network."""
    app.config.update(
        API_TITLE=TITLE,
        API_VERSION=VERSION,
        OPENAPI_VERSION="3.1.0",
        OPENAPI_URL_PREFIX="/",
        OPENAPI_JSON_PATH=_OPENAPI_PATH.lstrip("/"),
    )
    # `//v1//projects` is no address of ours; werkzeug would answer with a redirect in HTML.
    app.url_map.merge_slashes = False
    api = _Api(app, spec_kwargs={"info": {"description": "Events in, exactly once; and who may send them."}})
    api.spec.components.schema("ErrorBody", _ERROR)
    for name, scheme in _SECURITY.items():
        api.spec.components.security_scheme(name, scheme)
    # Which credential opens which door: the blueprints of MANAGEMENT carry the guard, ingest proves its key on the
    # road itself, and health is open.
    doors: list[Any] = [health.blueprint, ingest.blueprint, *MANAGEMENT]
    for blueprint in doors:
        api.register_blueprint(blueprint)
    app.register_blueprint(get_swaggerui_blueprint("/docs", _OPENAPI_PATH, config=_DOCS_PAGE))
