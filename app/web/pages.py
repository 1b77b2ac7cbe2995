"""The pages for people: `/` names the product and its addresses, `/docs` shows the OpenAPI document.

People paste management tokens into `/docs`. So the page runs no script but the files that this process serves, no other
site may frame it, and it keeps a token no longer than it is open.
"""

from importlib.resources import files
from mimetypes import guess_type
from pathlib import Path
from typing import Any, Final

from flask import Blueprint, Response, json, request

from app.errors import NotFound

DOCS_PATH: Final = "/docs"
_OWN: Final = Path(__file__).parent / "static"
_SWAGGER: Final = Path(str(files("flask_swagger_ui"))) / "dist"
_ASSETS: Final = {
    "page.css": _OWN,
    "docs.js": _OWN,
    "swagger-ui.css": _SWAGGER,
    "swagger-ui-bundle.js": _SWAGGER,
    "favicon-32x32.png": _SWAGGER,
}
# Swagger sets styles through the CSSOM, which style-src does not restrict; the images in its style sheet are data URLs.
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",  # for browsers without frame-ancestors
}
_WHAT_THIS_IS: Final[dict[str, Any]] = {
    "name": "Lariba",
    "description": "Takes events and stores each exactly once.",
    "docs": DOCS_PATH,
    "openapi": "/openapi.json",
    "health": {"lives": "/healthz", "is_ready": "/readyz"},
    "send_an_event": {
        "request": "POST /v1/events/ingest",
        "header": "X-API-Key: lrb_sk_…",
        "where_the_key_is": "`make run` prints it and writes it into demo.env; elsewhere an operator issues one by"
        " POST /v1/sources/{source_id}/keys. A key is shown once.",
    },
    "manage": {"request": "GET /v1/projects", "header": "Authorization: Bearer lrb_mt_…"},
}

blueprint = Blueprint("pages", __name__)


@blueprint.after_request
def add_security_headers(response: Response) -> Response:
    """Restrict what a browser may load for a page, and who may frame it."""
    response.headers.update(_HEADERS)
    return response


@blueprint.get("/")
def front() -> Response:
    """The front page: HTML for browsers, JSON for other clients."""
    if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
        response = _file(_OWN / "front.html")
    else:
        response = Response(json.dumps(_WHAT_THIS_IS, ensure_ascii=False), mimetype="application/json")
    response.vary.add("Accept")
    return response


# Both spellings: Flask would redirect from one to the other.
@blueprint.get(DOCS_PATH)
@blueprint.get(f"{DOCS_PATH}/")
def docs() -> Response:
    """Swagger UI with the OpenAPI document."""
    return _file(_OWN / "docs.html")


@blueprint.get(f"{DOCS_PATH}/<asset>")
def docs_asset(asset: str) -> Response:
    """A script, style sheet or image of a page."""
    if asset not in _ASSETS:
        raise NotFound
    return _file(_ASSETS[asset] / asset)


def _file(path: Path) -> Response:
    """A file's content, with an ETag that a browser revalidates at each use."""
    response = Response(path.read_bytes(), mimetype=guess_type(path.name)[0])
    response.cache_control.no_cache = True
    response.add_etag()
    response.make_conditional(request)
    return response
