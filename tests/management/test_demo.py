"""The demo workspace: made once, found again, and left as its operator wants it."""

from collections.abc import Iterator
from dataclasses import replace
from unittest.mock import patch

import pytest
from flask.testing import FlaskClient

from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials.table import CredentialTable
from app.factory import create_app
from local.demo import DemoCredentials, ensure_demo
from tests.support.databases import close, copied_database
from tests.support.people import execute, rows
from tests.support.waiting import wait_for_preloads

_EVENT = {
    "event_type": "payment.failed",
    "source_id": "src_demo",
    "environment": "production",
    "payload": {"amount": 49.99},
}


@pytest.fixture(name="empty")
def _empty(server_url: str, migrated: Settings) -> Iterator[Settings]:
    """A database of its own: there is one demo in an installation."""
    with copied_database(server_url, migrated) as settings:
        yield replace(settings, database_pool_size=4)


@pytest.fixture(name="context")
def _context(empty: Settings) -> Iterator[Context]:
    context = create_app(empty).extensions[EXTENSION]
    yield context
    close(context.database)


@pytest.fixture(name="demo")
def _demo(empty: Settings) -> DemoCredentials:
    return ensure_demo(empty, {})


@pytest.fixture(name="client")
def _client(empty: Settings) -> Iterator[FlaskClient]:
    app = create_app(empty)
    yield app.test_client()
    close(app.extensions[EXTENSION].database)


def _known(demo: DemoCredentials) -> dict[str, str]:
    return {"LARIBA_SOURCE_KEY": demo.source_key, "LARIBA_MANAGEMENT_TOKEN": demo.management_token}


def _send(client: FlaskClient, key: str) -> int:
    return client.post("/v1/events/ingest", json=_EVENT, headers={"X-API-Key": key}).status_code


def _manage(client: FlaskClient, token: str) -> int:
    return client.get("/v1/sources/src_demo", headers={"Authorization": f"Bearer {token}"}).status_code


def _state(context: Context) -> list[object]:
    tables = ("workspaces", "projects", "environments", "sources", "source_keys", "management_tokens", "audit_entries")
    return [rows(context, f"SELECT t::text FROM {table} t ORDER BY id") for table in tables]


def test_its_key_sends_and_its_token_manages(demo: DemoCredentials, client: FlaskClient) -> None:
    assert demo.source_id == "src_demo"
    assert _send(client, demo.source_key) == 201
    assert _manage(client, demo.management_token) == 200


def test_credentials_that_still_open_something_are_given_back(
    demo: DemoCredentials, empty: Settings, context: Context, client: FlaskClient
) -> None:
    # Looking whether the token opens something is a use of it, which is noted once a minute.
    assert _manage(client, demo.management_token) == 200
    before = _state(context)

    assert ensure_demo(empty, _known(demo)) == demo
    assert _state(context) == before


def test_what_is_missing_or_nonsense_is_issued_anew(
    demo: DemoCredentials, empty: Settings, client: FlaskClient
) -> None:
    for known in ({}, {"LARIBA_SOURCE_KEY": "lrb_sk_x", "LARIBA_MANAGEMENT_TOKEN": demo.source_key}):
        again = ensure_demo(empty, known)
        assert _send(client, again.source_key) == 201
        assert _manage(client, again.management_token) == 200
    kept_token = ensure_demo(empty, {"LARIBA_MANAGEMENT_TOKEN": again.management_token})
    assert kept_token.management_token == again.management_token
    assert kept_token.source_key != again.source_key


def test_new_demo_credentials_revoke_those_that_are_lost(
    demo: DemoCredentials, empty: Settings, client: FlaskClient
) -> None:
    """Else each demo.env that is lost leaves a key and a token that are good for ever."""
    assert (_send(client, demo.source_key), _manage(client, demo.management_token)) == (201, 200)

    ensure_demo(empty, {})

    assert (_send(client, demo.source_key), _manage(client, demo.management_token)) == (401, 401)


def test_a_key_or_token_that_ended_is_replaced(empty: Settings, context: Context, client: FlaskClient) -> None:
    old = ensure_demo(empty, {})
    execute(context, "UPDATE source_keys SET revoked_at = now() WHERE revoked_at IS NULL")
    execute(context, "UPDATE management_tokens SET expires_at = now() WHERE expires_at IS NULL")

    new = ensure_demo(empty, _known(old))

    assert new.source_key != old.source_key
    assert new.management_token != old.management_token
    assert _send(client, new.source_key) == 201
    assert _send(client, old.source_key) == 401


def test_what_an_operator_disabled_stays_disabled(empty: Settings, context: Context, client: FlaskClient) -> None:
    demo = ensure_demo(empty, {})
    execute(context, "UPDATE sources SET disabled_at = now()")
    try:
        again = ensure_demo(empty, _known(demo))
        assert again == demo
        assert _send(client, again.source_key) == 403
    finally:
        execute(context, "UPDATE sources SET disabled_at = NULL")


def test_nothing_reads_on_when_they_are_given_back(demo: DemoCredentials, empty: Settings) -> None:
    with patch.object(CredentialTable, "used_last") as used_last:
        ensure_demo(empty, _known(demo))
        wait_for_preloads()

    assert used_last.call_count == 0


def test_no_secret_stands_in_its_repr(demo: DemoCredentials) -> None:
    assert "lrb_" not in repr(demo)
