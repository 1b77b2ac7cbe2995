"""A backend that ends at any statement of any request: a 503, whatever statement it was, and a repeat that works."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from app.config import Settings
from app.context import Context
from tests.ingest.test_batch import send_batch
from tests.support.lost_backends import losing_backend
from tests.support.operating import UNKNOWN_ID, ApiClient, api_of
from tests.support.people import execute, make_tenant
from tests.support.sending import error_of, event_for, send

# Each request with the statuses that are right if nothing is lost. Refusals and changes, each twice under one
# Idempotency-Key: the second finds what the first has made by leaving the transaction.
_MANAGEMENT: dict[str, tuple[str, str, Any, dict[str, str], set[int]]] = {
    "read": ("GET", "/v1/sources/{source}", None, {}, {200}),
    "read nothing": ("GET", f"/v1/projects/prj_{UNKNOWN_ID}", None, {}, {404}),
    "list": ("GET", "/v1/audit", None, {}, {200}),
    "usage of nothing": ("GET", f"/v1/keys/key_{UNKNOWN_ID}/usage", None, {}, {404}),
    "create": ("POST", "/v1/projects", {"name": "new"}, {}, {201, 409}),
    "create again": ("POST", "/v1/projects", {"name": "newer"}, {"Idempotency-Key": "k"}, {201}),
    "taken name": ("POST", "/v1/projects", {"name": "shop"}, {}, {409}),
    "stale": ("PATCH", "/v1/projects/{project}", {"name": "x"}, {"If-Match": '"none"'}, {412}),
    "issue": ("POST", "/v1/sources/{source}/keys", {}, {"Idempotency-Key": "i"}, {201, 409}),
    "issue for nothing": ("POST", f"/v1/sources/src_{UNKNOWN_ID}/keys", {}, {}, {404}),
    "rotate": ("POST", "/v1/keys/{key}/rotate", {}, {"Idempotency-Key": "r"}, {201, 409}),
    "disable": ("POST", "/v1/sources/{source}/disable", None, {}, {200}),
    "revoke": ("POST", "/v1/keys/{key}/revoke", None, {}, {200}),
    "archive": ("DELETE", "/v1/projects/{project}", None, {}, {200, 204, 404}),
}


def _but_for(fast: tuple[str, ...], names: Iterable[str]) -> list[Any]:
    """All of `names`; those that are variants, which seldom tell anything more, as slow tests."""
    return [each if each in fast else pytest.param(each, marks=pytest.mark.slow) for each in names]


@pytest.mark.parametrize("request_name", _but_for(("read", "create again", "issue", "revoke"), _MANAGEMENT))
def test_a_management_request_that_loses_its_backend_is_503_and_its_repeat_works(
    app: Flask, context: Context, settings: Settings, request_name: str
) -> None:
    method, path, body, headers, right = _MANAGEMENT[request_name]
    tenant = make_tenant(context)
    api = api_of(app, tenant)
    path = path.format(source=tenant.source_id, project=tenant.project_id, key=tenant.key_id)

    def call() -> TestResponse:
        return api.call(method, path, body, headers=headers)

    _lose_at_every_moment(context, settings, call, lambda: _warm_up(api), right)


@pytest.mark.parametrize("refused", ["not json", "revoked", "unknown key"])
def test_a_refused_event_that_loses_its_backend_is_503(
    app: Flask, context: Context, settings: Settings, refused: str
) -> None:
    tenant = make_tenant(context)
    if refused == "revoked":
        execute(context, "UPDATE source_keys SET revoked_at = now() WHERE id = :id", id=tenant.key_row)
    key = context.credentials.mint("sk")[1] if refused == "unknown key" else tenant.key

    def call() -> TestResponse:
        return send(app.test_client(), tenant, "not json", key=key)

    _lose_at_every_moment(context, settings, call, lambda: None, {400, 401})


@pytest.mark.parametrize(
    "kind",
    _but_for(
        ("accepted", "rejected"), ("accepted", "repeated", "reused", "rejected", "atomic", "revoked", "unreadable")
    ),
)
def test_a_batch_that_loses_its_backend_is_503_or_what_it_would_be(
    app: Flask, context: Context, settings: Settings, kind: str
) -> None:
    tenant = make_tenant(context)
    client = app.test_client()
    events: Any = [event_for(tenant, event_id="first"), event_for(tenant, source_id="src_other")]
    send_batch(client, tenant, [event_for(tenant)], "k")
    if kind == "revoked":
        execute(context, "UPDATE source_keys SET revoked_at = now() WHERE id = :id", id=tenant.key_row)
    query = "?atomic=true" if kind == "atomic" else ""
    key = {"repeated": "other", "reused": "k"}.get(kind)
    sent = b"not json" if kind == "unreadable" else events

    def call() -> TestResponse:
        return send_batch(client, tenant, sent, key, query)

    # After an unanswered commit the server itself looks up its outcome.
    _lose_at_every_moment(context, settings, call, lambda: None, {200, 400, 401, 422}, may_recover=True)


def _lose_at_every_moment(
    context: Context,
    settings: Settings,
    call: Callable[[], TestResponse],
    warm_up: Callable[[], object],
    right: set[int],
    *,
    may_recover: bool = False,
) -> None:
    at = 0
    while True:
        warm_up()
        with losing_backend(context.database.engine, settings.database_url, at) as loss:
            lost = call()
        if not loss.has_happened:
            assert lost.status_code in right, (at, lost.text)
            break
        if not (may_recover and lost.status_code in right):
            assert lost.status_code == 503, (at, lost.text)
            assert error_of(lost)["code"] == "storage_unavailable"
        repeat = call()
        assert repeat.status_code in right, (at, repeat.text)
        at += 1
    assert at >= 2


def _warm_up(api: ApiClient) -> None:
    """Have the token's last use written, so that each call has the same statements."""
    assert api.get("/v1/workspace").status_code == 200
