"""The OpenAPI document without a server: the application is created and opens no connection."""

from typing import Any

from app.config import Settings
from app.factory import create_app

_NOWHERE = "postgresql://nobody@localhost/nowhere"


def read_document() -> dict[str, Any]:
    """The document as /openapi.json serves it."""
    settings = Settings(
        database_url=_NOWHERE,
        admin_database_url=_NOWHERE,
        broker_url="memory://",
        secret_key=("signs nothing",),
        log_level="ERROR",
    )
    document: dict[str, Any] = create_app(settings).test_client().get("/openapi.json").get_json()
    return document
