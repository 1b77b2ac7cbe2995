"""The response for an object, with its ETag and, if it is new, its address; and the Link header of a page."""

from typing import TypeVar
from urllib.parse import urlencode

from flask import Response, request, url_for

from app.management.common.views import View

Shown = TypeVar("Shown", bound=View)
Headers = dict[str, str]


def shown(view: Shown) -> tuple[Shown, Headers]:
    return view, {"ETag": f'"{view.etag}"'}


def created(view: Shown, endpoint: str, **path: str) -> tuple[Shown, Headers]:
    """An object that did not exist before, and where it can be read."""
    return view, {"ETag": f'"{view.etag}"', "Location": url_for(endpoint, _external=None, **path)}


def gone() -> Response:
    """204: nothing is left to show."""
    response = Response(status=204)
    del response.headers["Content-Type"]
    return response


def links_of(next_cursor: str | None) -> str:
    """The Link header (RFC 8288) of a page: the list's first page, and the next one if there is one."""
    query = {name: value for name, value in request.args.items() if name != "cursor"}
    links = [_link(query, "first")]
    if next_cursor is not None:
        links.insert(0, _link(query | {"cursor": next_cursor}, "next"))
    return ", ".join(links)


def _link(query: dict[str, str], relation: str) -> str:
    address = f"{request.path}?{urlencode(query)}" if query else request.path
    return f'<{address}>; rel="{relation}"'
