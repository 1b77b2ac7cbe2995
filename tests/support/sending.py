"""Sends events as a producer would."""

import json
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.support.people import Tenant

PATH = "/v1/events/ingest"


def event_for(tenant: Tenant, **changes: Any) -> dict[str, Any]:
    """A minimal valid event of the tenant's source; a change to None leaves the member out."""
    event = {
        "event_type": "payment.failed",
        "source_id": tenant.source_id,
        "payload": {"amount": 49.99},
    } | changes
    return {name: value for name, value in event.items() if value is not None}


def send(
    client: FlaskClient,
    tenant: Tenant,
    body: Any = None,
    *,
    key: str | None = None,
    idempotency_key: str | None = None,
    content_type: str | None = "application/json",
    headers: dict[str, str] | None = None,
) -> TestResponse:
    """POST `body` (an event, or text or bytes as they are) with the tenant's key."""
    sent = {"X-API-Key": tenant.key if key is None else key} | (headers or {})
    if idempotency_key is not None:
        sent["Idempotency-Key"] = idempotency_key
    body = event_for(tenant) if body is None else body
    data = body if isinstance(body, str | bytes) else json.dumps(body)
    return client.post(PATH, data=data, headers=sent, content_type=content_type)


def error_of(response: TestResponse) -> dict[str, Any]:
    """The error body, checked for the one shape that all errors have."""
    assert response.mimetype == "application/json", response.data
    assert response.json is not None
    error = response.json["error"]
    assert set(error) - {"details"} == {"code", "message", "request_id", "retryable"}
    assert error["request_id"] == response.headers["X-Request-ID"]
    assert isinstance(error, dict)
    return error


def pointers_of(response: TestResponse) -> set[str]:
    return {detail["pointer"] for detail in error_of(response)["details"]}
