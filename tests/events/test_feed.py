"""The feed: each event once and in one order, whatever the order of the commits."""

from collections.abc import Callable
from contextlib import closing

import psycopg
import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from sqlalchemy import Integer
from sqlalchemy.exc import DataError

from app.config import Settings
from app.context import Context
from app.events.feed import domain as feed
from app.events.feed.cursors import BEGIN
from app.events.feed.domain import Feed
from app.events.query.parsing import parse
from app.events.view import EVENTS
from app.management.common.operators import at_the_shell
from tests.support.examples import examples
from tests.support.following import FEED, Consumer, Group, Writer, store_group
from tests.support.operating import ApiClient, api_of
from tests.support.people import Tenant
from tests.support.sending import event_for, send


@pytest.fixture(name="api")
def _api(app: Flask, alice: Tenant) -> ApiClient:
    return api_of(app, alice)


@pytest.fixture(name="consumer")
def _consumer(api: ApiClient, alice: Tenant) -> Consumer:
    return Consumer(api, alice.project_id)


class TestAPage:
    def test_shows_events_as_they_are_read_one_by_one(self, client: FlaskClient, api: ApiClient, alice: Tenant) -> None:
        assert send(client, alice, event_for(alice, event_id="e", severity="error")).status_code == 201

        page = api.get(FEED, project_id=alice.project_id).json
        assert page is not None
        assert [event | {"origin": None} for event in page["data"]] == [
            api.get(f"/v1/sources/{alice.source_id}/events/e").json
        ]

    def test_goes_on_where_the_one_before_ended(self, context: Context, consumer: Consumer, alice: Tenant) -> None:
        for number in range(5):
            store_group(context.database, alice, *(f"{number}-{each}" for each in range(4)))

        assert [len(consumer.page(limit=3)) for _ in range(8)] == [3, 3, 3, 3, 3, 3, 2, 0]
        assert len(set(consumer.seen)) == 20
        assert [each[0] for each in consumer.seen] == sorted(each[0] for each in consumer.seen)

    def test_of_nothing_new_is_empty_and_has_a_cursor(
        self, context: Context, consumer: Consumer, alice: Tenant
    ) -> None:
        assert consumer.page() == []
        assert consumer.page() == []
        store_group(context.database, alice, "e")

        assert consumer.page() == ["e"]

    def test_from_now_on_shows_what_came_later(self, context: Context, consumer: Consumer, alice: Tenant) -> None:
        store_group(context.database, alice, "before")
        consumer.cursor = "now"
        assert consumer.page() == []
        store_group(context.database, alice, "after")

        assert consumer.page() == ["after"]

    def test_ends_where_its_payloads_get_too_large(
        self, context: Context, consumer: Consumer, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(feed, "PAGE_BYTES", 25_000)
        monkeypatch.setattr(feed, "_STORED_BYTES_AT_ONCE", 300)  # which is what PostgreSQL makes of two of them
        for number in range(10):
            store_group(context.database, alice, str(number), payload={"text": "x" * 10_000})

        assert [len(consumer.page()) for _ in range(5)] == [4, 4, 2, 0, 0]
        assert consumer.seen == [str(number) for number in range(10)]

    @given(groups=st.lists(st.integers(1, 7), max_size=12), limits=st.lists(st.integers(1, 9), min_size=1, max_size=4))
    @hypothesis(max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_of_any_size_adds_up_to_all_events_in_order(
        self, app: Flask, context: Context, tenant: Callable[[], Tenant], groups: list[int], limits: list[int]
    ) -> None:
        dora = tenant()
        for number, size in enumerate(groups):
            store_group(context.database, dora, *(f"{number}-{each}" for each in range(size)))
        consumer = Consumer(api_of(app, dora), dora.project_id)
        sizes = iter(limits * 100)
        while consumer.page(limit=next(sizes)):
            pass

        assert sorted(consumer.seen) == sorted(f"{n}-{each}" for n, size in enumerate(groups) for each in range(size))
        assert [int(each.split("-")[0]) for each in consumer.seen] == [
            n for n, size in enumerate(groups) for _ in range(size)
        ]


class TestAFilter:
    @pytest.fixture(autouse=True)
    def _judges_few_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(feed, "SCANNED_MAX", 40)
        monkeypatch.setattr(feed, "_SCANNED_MIN", 5)

    @pytest.mark.parametrize("limit", [1, 3, 100])
    def test_shows_what_it_admits_and_moves_on_past_the_rest(self, context: Context, alice: Tenant, limit: int) -> None:
        for number in range(100):
            event_type = "rare" if number % 33 == 0 else "frequent"
            store_group(context.database, alice, f"{number}a", f"{number}b", event_type=event_type)
        rare = Feed(alice.project_id, parse("type:rare"))
        place, seen, pages = BEGIN, [], 0
        while True:
            page = rare.page(context.reading, at_the_shell(alice.workspace_row), place, limit)
            assert page.reached > place or page.is_last
            place, pages = page.reached, pages + 1
            seen += [event.event_id for event in page.data]
            if page.is_last and not page.data:
                break

        assert [each[:-1] for each in seen] == ["0", "0", "33", "33", "66", "66", "99", "99"]
        assert len(set(seen)) == 8
        assert pages >= 6

    def test_judges_no_more_events_for_a_page_than_it_may(
        self, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It would fail at the sixtieth."""
        for number in range(70):
            store_group(context.database, alice, str(number), payload={"n": number})
        fails = 1 / (60 - EVENTS.c.payload["n"].astext.cast(Integer)) > 1
        monkeypatch.setattr(feed, "condition", lambda *_: fails)
        failing = Feed(alice.project_id, parse("nowhere"))
        operator = at_the_shell(alice.workspace_row)

        page = failing.page(context.reading, operator, BEGIN, 100)
        assert (page.data, page.is_last) == ([], False)
        with pytest.raises(DataError):
            failing.page(context.reading, operator, page.reached, 100)


class TestTheOrderOfCommits:
    def test_is_not_that_of_the_feed(self, context: Context, consumer: Consumer, alice: Tenant) -> None:
        first = Group(context.database, alice, "1")
        second = Group(context.database, alice, "2")
        second.commit()
        assert consumer.page() == []

        first.commit()
        assert consumer.page() == ["1", "2"]

    def test_reversed_a_thousand_times_skips_nothing(
        self, settings: Settings, consumer: Consumer, alice: Tenant
    ) -> None:
        _reverse(settings, consumer, alice, 1_000)

    @pytest.mark.slow
    def test_reversed_a_hundred_thousand_times_skips_nothing(
        self, settings: Settings, consumer: Consumer, alice: Tenant
    ) -> None:
        _reverse(settings, consumer, alice, 100_000)

    @given(order=st.permutations(range(6)), read=st.sets(st.integers(0, 5)))
    @hypothesis(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_may_be_any(
        self, app: Flask, context: Context, tenant: Callable[[], Tenant], order: list[int], read: set[int]
    ) -> None:
        dora = tenant()
        consumer = Consumer(api_of(app, dora), dora.project_id)
        groups = [Group(context.database, dora, f"{n}a", f"{n}b") for n in range(6)]
        for turn, number in enumerate(order):
            groups[number].commit()
            if turn in read:
                consumer.page(limit=3)
        consumer.catch_up()

        assert [each[0] for each in consumer.seen] == [str(n) for n in range(6) for _ in "ab"]
        assert len(set(consumer.seen)) == 12


def _reverse(settings: Settings, consumer: Consumer, alice: Tenant, pairs: int) -> None:
    with closing(Writer(settings)) as early, closing(Writer(settings)) as late:
        for number in range(pairs):
            early.store(alice, f"{number}-early")
            late.store(alice, f"{number}-late")
            late.commit()
            if number % 10 == 0:
                consumer.page(limit=21)
            early.commit()
    consumer.catch_up(limit=1_000)

    assert consumer.seen == [f"{number}-{which}" for number in range(pairs) for which in ("early", "late")]


class TestWhatIsLeftOpen:
    """By others; nothing of it is waited for."""

    def test_by_another_workspace_holds_nothing_up(
        self, context: Context, consumer: Consumer, alice: Tenant, charlie: Tenant
    ) -> None:
        with Group(context.database, charlie, "theirs"):
            store_group(context.database, alice, "ours")

            assert consumer.page() == ["ours"]

    def test_by_the_same_workspace_holds_the_feed_up_until_it_ends(
        self, context: Context, consumer: Consumer, alice: Tenant
    ) -> None:
        store_group(context.database, alice, "1")
        with Group(context.database, alice, "2"):
            store_group(context.database, alice, "3")

            assert consumer.catch_up() == ["1"]
        assert consumer.catch_up() == ["2", "3"]

    def test_in_another_table_or_database_holds_nothing_up(
        self, context: Context, settings: Settings, server_url: str, consumer: Consumer, alice: Tenant
    ) -> None:
        with psycopg.connect(settings.admin_database_url) as here, psycopg.connect(server_url) as there:
            here.execute("CREATE TABLE of_a_test (n integer)")
            there.execute("CREATE TEMPORARY TABLE of_a_test (n integer)")
            store_group(context.database, alice, "e")

            assert consumer.page() == ["e"]
            here.rollback()
