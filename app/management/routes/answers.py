"""How an object leaves: with its ETag, and with its address if it is new."""

from typing import TypeVar

from flask import Response, url_for

from app.management.revisions import Facts

Shown = TypeVar("Shown", bound=Facts)
Headers = dict[str, str]


def shown(facts: Shown) -> tuple[Shown, Headers]:
    """An object as it is now."""
    return facts, {"ETag": f'"{facts.etag}"'}


def created(facts: Shown, endpoint: str, **path: str) -> tuple[Shown, Headers]:
    """An object that did not exist before, and where it can be read."""
    return facts, {"ETag": f'"{facts.etag}"', "Location": url_for(endpoint, _external=None, **path)}


def gone() -> Response:
    """Nothing is left to show."""
    response = Response(status=204)
    del response.headers["Content-Type"]
    return response
