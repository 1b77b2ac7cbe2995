"""Searches, counts and exports on a standby: what it answers is what the primary would, or the primary answers."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from app.database.migrate import migrate
from app.database.unfinished import OLDEST_UNFINISHED
from app.events.standby import PROGRAM, Needed, Standby
from app.factory import create_app
from app.telemetry import metrics
from tests.support.databases import SECRET_KEY, close
from tests.support.following import Group
from tests.support.logged import logged_by
from tests.support.operating import ApiClient, api_of
from tests.support.people import Tenant, make_tenant
from tests.support.sending import error_of, event_for, send
from tests.support.standby import Pair, ask, primary_and_standby
from tests.support.waiting import wait_until


@pytest.fixture(scope="module", name="pair")
def _pair() -> Iterator[Pair]:
    # A query is cancelled as soon as it is in the way of the replay. And no commit is there at once.
    options = {"max_standby_streaming_delay": "0", "recovery_min_apply_delay": "20ms"}
    with primary_and_standby(of_standby=options) as pair:
        yield pair


@pytest.fixture(scope="module", name="reading")
def _reading(pair: Pair) -> Settings:
    """Settings with the standby."""
    settings = Settings(
        database_url=pair.primary.url("lariba_app", "lariba"),
        admin_database_url=pair.primary.url("lariba_owner", "lariba"),
        read_database_url=pair.standby.url("lariba_app", "lariba"),
        read_lag_seconds_max=60.0,
        broker_url="memory://",
        secret_key=(SECRET_KEY,),
        log_level="ERROR",
        management_token_requests_per_second=None,
        management_workspace_requests_per_second=None,
    )
    migrate(settings)
    return settings


@contextmanager
def _served(settings: Settings, credentials: Credentials) -> Iterator[Flask]:
    app = create_app(settings, credentials=credentials)
    context: Context = app.extensions[EXTENSION]
    yield app
    assert context.standby is not None
    for database in (context.database, context.reading, *context.standby.databases):
        close(database)


@pytest.fixture(scope="module", name="app")
def _app(reading: Settings, credentials: Credentials) -> Iterator[Flask]:
    with _served(reading, credentials) as app:
        yield app


@pytest.fixture(scope="module", name="context")
def _context(app: Flask) -> Context:
    context: Context = app.extensions[EXTENSION]
    return context


@pytest.fixture(name="standby")
def _standby(context: Context, alice: Tenant, app: Flask) -> Standby:
    """In use."""
    assert context.standby is not None
    _wait_until_used(app, alice)
    return context.standby


def _answers(app: Flask, tenant: Tenant) -> tuple[Any, Any, Any]:
    """What a search in pages, counts and an export say of the last hour."""
    api = api_of(app, tenant)
    page = api.get("/v1/events", project_id=tenant.project_id, limit=2).json
    assert page is not None
    events = page["data"]
    while page["next_cursor"] is not None:
        page = api.get("/v1/events", project_id=tenant.project_id, limit=2, cursor=page["next_cursor"]).json
        assert page is not None
        events += page["data"]
    counts = api.get("/v1/events/counts", project_id=tenant.project_id, group_by="type").json
    export = api.get("/v1/events/export", project_id=tenant.project_id)
    assert counts is not None
    *exported, last = map(json.loads, export.text.splitlines())
    assert last == {"complete": True, "events": len(events)}
    assert sum(bucket["count"] for bucket in counts["buckets"]) == counts["total"]
    return [event["event_id"] for event in events], counts["total"], [event["event_id"] for event in exported]


def _search(api: ApiClient, tenant: Tenant) -> list[str]:
    answer = api.get("/v1/events", project_id=tenant.project_id)
    assert answer.status_code == 200, answer.text
    assert answer.json is not None
    return [event["event_id"] for event in answer.json["data"]]


def _read(answered_by: str) -> float:
    return metrics.REGISTRY.get_sample_value("lariba_standby_reads_total", {"answered_by": answered_by}) or 0.0


def _is_used() -> float | None:
    return metrics.REGISTRY.get_sample_value("lariba_standby_used", {"program": PROGRAM})


def _wait_until_used(app: Flask, tenant: Tenant) -> None:
    """Until a search is answered by the standby."""
    api = api_of(app, tenant)
    before = _read("standby")

    def is_used() -> bool:
        _search(api, tenant)
        return _read("standby") > before

    wait_until(is_used)


def _cause_of(standby: Standby, app: Flask, tenant: Tenant) -> Callable[[], str | None]:
    def cause() -> str | None:
        _search(api_of(app, tenant), tenant)  # which starts the thread
        return standby.cause

    return cause


def _send(app: Flask, tenant: Tenant, *names: str) -> list[str]:
    """Store events; returns their ids, the newest first."""
    for name in names:
        assert send(app.test_client(), tenant, event_for(tenant, event_id=name)).status_code == 201
    return list(reversed(names))


@pytest.mark.usefixtures("standby")
def test_what_was_just_stored_is_found_counted_and_exported_on_the_standby(app: Flask, alice: Tenant) -> None:
    before = _read("primary")
    sent: list[str] = []
    for n in range(20):
        sent = [*_send(app, alice, f"e{n}"), *sent]
        assert _answers(app, alice) == (sent, len(sent), sent)

    assert _read("standby") > _read("primary") - before
    wait_until(lambda: _is_used() == 1)


@pytest.mark.usefixtures("standby")
def test_while_events_come_in_total_buckets_and_pages_are_one_number(app: Flask, alice: Tenant) -> None:
    api, is_over, before = api_of(app, alice), threading.Event(), _read("standby")

    def send_until_over() -> None:
        n = 0
        while not is_over.is_set():
            n += 1
            _send(app, alice, f"e{n}")

    def count_and_search() -> bool:
        counts = api.get("/v1/events/counts", project_id=alice.project_id, interval="1h").json
        assert counts is not None
        asked = {"project_id": alice.project_id, "limit": 100, **{n: counts["query"][n] for n in ("from", "to")}}
        found: list[str] = []
        cursor: dict[str, str] | None = {}
        while cursor is not None:
            page = api.get("/v1/events", **asked, **cursor).json
            assert page is not None
            found += [event["event_id"] for event in page["data"]]
            cursor = page["next_cursor"] and {"cursor": page["next_cursor"]}
        assert len(found) == len(set(found)) == counts["total"] == sum(each["count"] for each in counts["buckets"])
        return _read("standby") > before + 40 and counts["total"] > 100

    sender = threading.Thread(target=send_until_over)
    sender.start()
    try:
        wait_until(count_and_search, pause_seconds=0)
    finally:
        is_over.set()
        sender.join()


def test_a_standby_that_has_not_replayed_what_was_just_stored_leaves_that_to_the_primary(
    app: Flask, pair: Pair, alice: Tenant, standby: Standby
) -> None:
    api = api_of(app, alice)
    ask(pair.standby, "SELECT pg_wal_replay_pause()")
    try:
        # In the same second, in which nothing has been noticed yet, and later, when it is known to stand still.
        sent = _send(app, alice, "a", "b", "c")
        at_once = _answers(app, alice)
        wait_until(lambda: _cause_of(standby, app, alice)() == "paused")
        sent = [*_send(app, alice, "d"), *sent]
        later = _answers(app, alice)
        wait_until(lambda: _is_used() == 0)
    finally:
        ask(pair.standby, "SELECT pg_wal_replay_resume()")
    _wait_until_used(app, alice)

    assert at_once == (sent[1:], 3, sent[1:])
    assert later == (sent, 4, sent)
    assert _search(api, alice) == sent


def test_what_is_being_stored_at_a_look_is_not_taken_for_replayed(
    context: Context, pair: Pair, alice: Tenant, standby: Standby
) -> None:
    class _AskedError(Exception):
        """The primary would have been asked for its place."""

    def session() -> Session:
        raise _AskedError

    with Group(context.database, alice, "open"):
        began = ask(pair.primary, OLDEST_UNFINISHED)

        def has_looked() -> bool:
            standby.look()
            with suppress(_AskedError):
                return standby.needed_for(began, session) is not None
            return False

        wait_until(has_looked)
        with pytest.raises(_AskedError):
            standby.needed_for(began + timedelta(milliseconds=1), session)


def test_an_answer_that_began_on_one_server_does_not_go_on_on_another(
    app: Flask, alice: Tenant, standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, behind = _send(app, alice, "a"), _read("primary_standby_behind")
    original = standby.needed_for

    def needed_for(*arguments: Any) -> Needed | None:
        needed = original(*arguments)
        return needed and needed._replace(started_at=needed.started_at - timedelta(days=1))

    monkeypatch.setattr(standby, "needed_for", needed_for)
    found = wait_until(lambda: (_search(api_of(app, alice), alice), _read("primary_standby_behind") > behind))

    assert found == (sent, True)


def test_pages_that_the_two_answer_in_turns_skip_and_double_nothing(
    app: Flask, pair: Pair, alice: Tenant, standby: Standby
) -> None:
    api = api_of(app, alice)
    sent = _send(app, alice, *(f"e{n}" for n in range(6)))
    asked: dict[str, Any] = {"project_id": alice.project_id, "limit": 2}
    first = api.get("/v1/events", **asked).json
    assert first is not None
    ask(pair.standby, "SELECT pg_wal_replay_pause()")
    try:
        wait_until(lambda: _cause_of(standby, app, alice)() == "paused")
        _send(app, alice, "late")
        second = api.get("/v1/events", **asked, cursor=first["next_cursor"]).json
    finally:
        ask(pair.standby, "SELECT pg_wal_replay_resume()")
    assert second is not None
    _wait_until_used(app, alice)
    third = api.get("/v1/events", **asked, cursor=second["next_cursor"]).json
    assert third is not None

    assert [event["event_id"] for page in (first, second, third) for event in page["data"]] == sent
    assert third["next_cursor"] is None


def test_a_standby_that_is_away_is_not_missed_and_is_read_again_when_it_is_back(
    app: Flask, pair: Pair, alice: Tenant, standby: Standby
) -> None:
    sent = _send(app, alice, "a", "b", "c")
    with logged_by("app.events.standby") as lines:
        pair.standby.stop(immediate=True)
        try:
            at_once = _answers(app, alice)
            wait_until(lambda: _cause_of(standby, app, alice)() == "away")
            later = _answers(app, alice)
        finally:
            pair.standby.start()
        _wait_until_used(app, alice)

    assert at_once == later == (sent, 3, sent)
    told = [line for line in lines if line["event"].startswith("standby_")]
    assert [(line["event"], line.get("cause")) for line in told] == [
        ("standby_not_read", "away"),
        ("standby_read_again", None),
    ]


def test_a_query_that_the_standby_cancels_for_its_replay_is_answered_by_the_primary(
    app: Flask, pair: Pair, alice: Tenant, standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when retention drops a day that a query is reading."""
    sent = _send(app, alice, "a", "b")
    ask(pair.primary, "CREATE TABLE in_the_way AS SELECT 1 AS one")
    ask(pair.primary, "GRANT SELECT ON in_the_way TO lariba_app")
    pair.have_both()
    failed = _read("primary_standby_failed")
    original, errors = standby.reading, []

    @contextmanager
    def reading(*arguments: Any) -> Iterator[Session]:
        with original(*arguments) as session:
            session.execute(text("SELECT one FROM in_the_way"))
            ask(pair.primary, "DROP TABLE in_the_way")
            try:
                # The replay waits no moment for the lock of the first statement.
                session.execute(text("SELECT pg_sleep(1.5)"))
            except DBAPIError as error:
                errors.append(getattr(error.orig, "sqlstate", None))
                raise
            yield session

    monkeypatch.setattr(standby, "reading", reading)
    found = _search(api_of(app, alice), alice)

    assert (found, errors) == (sent, ["40001"])
    assert _read("primary_standby_failed") == failed + 1


def test_who_has_all_places_of_the_standby_takes_none_of_the_primary(
    app: Flask, alice: Tenant, charlie: Tenant, standby: Standby, reading: Settings
) -> None:
    _send(app, charlie, "a")
    with ExitStack() as held:
        for _ in range(reading.reading_pool_size - 1):
            held.enter_context(standby.databases[0].transaction(alice.workspace_row))
        refused = api_of(app, alice).get("/v1/events", project_id=alice.project_id)
        other = _search(api_of(app, charlie), charlie)

    assert error_of(refused)["message"] == "Too many queries are under way. Repeat the same one later."
    assert other == ["a"]


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        (lambda pair: pair.primary.url("lariba_app", "lariba"), "no_standby"),
        (lambda pair: pair.standby.url("lariba_owner", "lariba"), "another_database"),
        (lambda pair: pair.standby.url("lariba_app", "postgres"), "another_database"),
        (lambda _: "postgresql://nothing@127.0.0.1:1/nothing", "away"),
    ],
)
def test_what_is_no_standby_of_the_same_database_for_the_same_role_is_not_read(
    reading: Settings, pair: Pair, credentials: Credentials, url: Callable[[Pair], str], cause: str
) -> None:
    with _served(replace(reading, read_database_url=url(pair)), credentials) as app:
        context: Context = app.extensions[EXTENSION]
        tenant = make_tenant(context)
        sent = _send(app, tenant, "a")
        standby = context.standby
        assert standby is not None
        cause_of_it = _cause_of(standby, app, tenant)
        wait_until(lambda: cause_of_it() == cause)

        assert _search(api_of(app, tenant), tenant) == sent
