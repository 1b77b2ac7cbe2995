"""A statement that takes longer than its kind may: the caller hears what to narrow, or that the database is slow."""

from collections.abc import Iterator
from types import ModuleType

import psycopg
import pytest
from flask import Flask

from app.context import Context
from app.events import export, one_event, search
from app.events.consumers import places
from app.events.counts import domain as counts
from app.events.feed import domain as feed
from app.events.statements import QueryClass
from tests.support.operating import ApiClient, api_of
from tests.support.people import Tenant
from tests.support.sending import error_of, event_for, send

_SOON = QueryClass(0.05)


@pytest.fixture(name="api")
def _api(app: Flask, alice: Tenant) -> ApiClient:
    api = api_of(app, alice)
    assert send(api.client, alice, event_for(alice, event_id="e", payload={"n": 1})).status_code == 201
    return api


@pytest.fixture(name="owner")
def _owner(context: Context) -> Iterator[psycopg.Connection]:
    with psycopg.connect(context.settings.admin_database_url) as owner:
        yield owner
        owner.rollback()


def _slow_down(owner: psycopg.Connection) -> None:
    """Every statement that reads an event waits from now on, as long as it may."""
    owner.execute("LOCK TABLE events")


@pytest.mark.parametrize(
    ("module", "query_class", "path"),
    [
        (search, "SEARCH", "/v1/events?project_id={}"),
        (counts, "COUNTS", "/v1/events/counts?project_id={}&q=payload.n:1"),
        (export, "EXPORT", "/v1/events/export?project_id={}"),
        (feed, "FEED", "/v1/events/feed?project_id={}"),
        (feed, "FEED", "/v1/consumers/of-{}/events"),
    ],
)
def test_a_query_that_is_out_of_time_is_told_what_to_narrow(
    api: ApiClient,
    alice: Tenant,
    owner: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    *,
    module: ModuleType,
    query_class: str,
    path: str,
) -> None:
    body = {"project_id": alice.project_id, "start": "start"}
    assert api.call("PUT", f"/v1/consumers/of-{alice.project_id}", body).status_code == 201
    path = path.format(alice.project_id)
    monkeypatch.setattr(module, query_class, _SOON)
    _slow_down(owner)

    answer = api.call("GET", path)

    assert answer.status_code == 422
    error = error_of(answer)
    assert (error["code"], error["retryable"]) == ("query_too_broad", False)
    assert "Shorten the range, or filter by type, source, env, key or severity." in error["message"]
    owner.rollback()
    monkeypatch.undo()
    assert api.call("GET", path).status_code == 200


def test_what_has_nothing_to_narrow_is_refused_as_by_a_slow_database(
    api: ApiClient, alice: Tenant, owner: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One event, and the place of a consumer at a moment."""
    by_source = f"/v1/sources/{alice.source_id}/events/e"
    shown = api.get(by_source).json or {}
    body = {"project_id": alice.project_id, "start": shown["received_at"]}
    for module in (one_event, places):
        monkeypatch.setattr(module, "LOOK_UP", module.LOOK_UP._replace(seconds=_SOON.seconds))
    _slow_down(owner)

    for answer in (
        api.get(by_source),
        api.get(f"/v1/events/{shown['id']}"),
        api.call("PUT", f"/v1/consumers/at-{alice.project_id}", body),
    ):
        assert answer.status_code == 503
        assert (error_of(answer)["code"], error_of(answer)["retryable"]) == ("storage_unavailable", True)
