"""POST /v1/events/ingest/batch when it is too much or something is in the way: 409, 429, 503, nothing stored."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import psycopg
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from app.config import Settings
from app.context import Context
from app.database.advisory_locks import exclude_workspace
from app.database.engine import TenantScope
from app.errors import StorageUnavailable
from app.ingest.services import EXTENSION as INGEST
from tests.ingest.test_batch import send_batch, statuses_of
from tests.support.people import Tenant, events_of, issue_key, limit_key, source_of
from tests.support.sending import error_of, event_for

_RECORD = text(
    "INSERT INTO idempotency_records"
    " VALUES (:project, :source, :workspace, 'k', '', gen_random_uuid(), 200, '', now(), now())"
)
_LEDGER = text("INSERT INTO event_ledger VALUES (:project, :source, :workspace, 'e', gen_random_uuid(), '', now())")


@pytest.fixture(name="client")
def _client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture(autouse=True)
def _nothing_is_stored(context: Context, alice: Tenant) -> Iterator[None]:
    yield
    assert events_of(context, alice) == []


def _refused(response: TestResponse) -> tuple[int, str]:
    return response.status_code, error_of(response)["code"]


@pytest.mark.parametrize("claim", [_RECORD, _LEDGER])
def test_409_while_another_transaction_holds_its_key_or_one_of_its_event_ids(
    client: FlaskClient, context: Context, alice: Tenant, claim: TextClause
) -> None:
    with context.database.transaction(TenantScope.ALL) as session:
        session.execute(
            claim, {"project": alice.project_row, "source": alice.source_row, "workspace": alice.workspace_row}
        )
        response = send_batch(client, alice, [event_for(alice), event_for(alice, event_id="e")], "k")
        session.rollback()

    assert _refused(response) == (409, "idempotency_in_progress")
    assert (error_of(response)["retryable"], response.headers["Retry-After"]) == (True, "1")


@pytest.mark.parametrize("is_readable", [True, False])
def test_503_while_a_right_of_its_workspace_is_being_taken_away(
    client: FlaskClient, context: Context, alice: Tenant, *, is_readable: bool
) -> None:
    """Also if no event of it would be stored: the answer itself is for those who may send."""
    with context.database.transaction(TenantScope.ALL) as session:
        exclude_workspace(session, alice.workspace_row)
        response = send_batch(client, alice, [event_for(alice) if is_readable else "[]"], "k")

    assert _refused(response) == (503, "storage_unavailable")


def test_429_for_a_batch_of_more_events_than_are_left_and_when_none_is_left_before_it_is_read(
    client: FlaskClient, context: Context, charlie: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(context.rate_limiter, "_clock", lambda: now)
    limit_key(context, charlie, 10)
    assert statuses_of(send_batch(client, charlie, [event_for(charlie)] * 6)) == ["stored"] * 6

    refused = send_batch(client, charlie, [event_for(charlie)] * 6)
    assert statuses_of(send_batch(client, charlie, [event_for(charlie)] * 4)) == ["stored"] * 4

    assert _refused(refused) == _refused(send_batch(client, charlie, b"not json")) == (429, "rate_limit_exceeded")
    assert {"Retry-After", "RateLimit", "RateLimit-Policy"} <= set(refused.headers.keys())
    assert len(events_of(context, charlie)) == 10


def test_503_if_no_place_comes_free(
    app: Flask, client: FlaskClient, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = app.extensions[INGEST].batch_slots
    monkeypatch.setattr(places, "_wait_seconds", 0.0)
    with ExitStack() as taken:
        for n in range(app.extensions[INGEST].settings.batches_at_once_max):
            taken.enter_context(places.held(-n))
        response = send_batch(client, alice, [event_for(alice)], "k")

    assert (_refused(response), response.headers["Retry-After"]) == ((503, "storage_unavailable"), "1")


def test_503_if_its_workspace_has_all_the_places_that_one_may_have_whichever_keys_it_uses(
    app: Flask, client: FlaskClient, context: Context, alice: Tenant, charlie: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = app.extensions[INGEST].batch_slots
    monkeypatch.setattr(places, "_wait_seconds", 0.0)
    with ExitStack() as taken:
        for _ in range(app.extensions[INGEST].settings.batches_at_once_max - 1):
            taken.enter_context(places.held(alice.workspace_row))
        refused = send_batch(client, alice, [event_for(alice)], "k")
        _, _, another_key = issue_key(context, source_of(context, alice))
        also_refused = send_batch(client, replace(alice, key=another_key), [event_for(alice)], "k")
        of_another = send_batch(client, charlie, [event_for(charlie)], "k")

    assert _refused(refused) == _refused(also_refused) == (503, "storage_unavailable")
    assert statuses_of(of_another) == ["stored"]


def test_503_while_a_table_is_locked_and_not_409(client: FlaskClient, settings: Settings, alice: Tenant) -> None:
    with psycopg.connect(settings.admin_database_url) as session:
        session.execute("LOCK TABLE event_ledger IN ACCESS EXCLUSIVE MODE")
        response = send_batch(client, alice, [event_for(alice)], "k")
        session.rollback()

    assert _refused(response) == (503, "storage_unavailable")


def test_503_if_the_database_does_not_commit(
    client: FlaskClient, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_batch(client, alice, b"caches the key")
    with monkeypatch.context() as patch:
        patch.setattr(Session, "commit", _refuse_to_commit)
        response = send_batch(client, alice, [event_for(alice)], "k")

    assert (_refused(response), error_of(response)["retryable"]) == ((503, "storage_unavailable"), True)


def test_a_refused_batch_gives_its_place_back(app: Flask, client: FlaskClient, alice: Tenant) -> None:
    places_max = app.extensions[INGEST].settings.batches_at_once_max
    for _ in range(places_max + 1):
        assert _refused(send_batch(client, alice, b"not json")) == (400, "bad_request")


def _refuse_to_commit(_: Session) -> None:
    raise StorageUnavailable
