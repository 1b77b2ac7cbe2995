"""No transaction of a request locks more than eight days, however many the request reads."""

from collections.abc import Iterator

import pytest
from flask import Flask

from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from app.events.statements import DAYS_AT_ONCE
from tests.support.following import store_group
from tests.support.operating import ApiClient, api_of
from tests.support.past_days import DAYS, app_with_past_days, locked_days, on_day
from tests.support.people import Tenant, make_tenant


@pytest.fixture(scope="module", name="app")
def _app(server_url: str, credentials: Credentials) -> Iterator[Flask]:
    with app_with_past_days(server_url, credentials) as app:
        yield app


@pytest.fixture(scope="module", name="context")
def _context(app: Flask) -> Context:
    context: Context = app.extensions[EXTENSION]
    return context


@pytest.fixture(scope="module", name="dana")
def _dana(context: Context) -> Tenant:
    """With an event on each day."""
    dana = make_tenant(context)
    for day in range(DAYS):
        store_group(context.database, dana, str(day), at=on_day(day))
    return dana


@pytest.fixture(name="api")
def _api(app: Flask, dana: Tenant) -> ApiClient:
    return api_of(app, dana)


@pytest.mark.parametrize(
    ("path", "q"),
    [
        ("/v1/events", ""),
        ("/v1/events", "payload.amount>1"),
        ("/v1/events/counts", "payload.amount>1"),
        ("/v1/events/export", ""),
        ("/v1/events/export", "payload.amount>1"),
    ],
)
def test_of_all_days_it_locks_eight_at_once(api: ApiClient, context: Context, dana: Tenant, path: str, q: str) -> None:
    within = {"from": on_day(0).isoformat(), "to": on_day(DAYS).isoformat()}

    with locked_days(context.reading) as counts:
        answer = api.get(path, project_id=dana.project_id, q=q, **within)

    assert answer.status_code == 200
    assert sum(counts) >= DAYS
    assert max(counts) <= DAYS_AT_ONCE


def test_of_one_event_it_locks_one_day(api: ApiClient, context: Context, dana: Tenant) -> None:
    with locked_days(context.reading) as counts:
        by_source = api.get(f"/v1/sources/{dana.source_id}/events/7").json or {}
        assert api.get(f"/v1/events/{by_source['id']}").json == by_source

    assert counts == [1, 1]
