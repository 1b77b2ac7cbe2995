"""A feed over many days: each is read, few at once, by the index; no clock and no closed day changes the order."""

import json
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from sqlalchemy import event

from app.context import Context
from app.credentials.verification import Credentials
from app.events.feed import domain as feed
from app.events.feed.cursors import BEGIN
from app.events.feed.domain import Bounds, Feed
from app.events.feed.news import News, Watched
from app.events.query.parsing import parse
from app.events.ranges import TimeRange
from app.events.statements import DAYS_AT_ONCE
from app.events.transactions import FewDays
from app.management.common.operators import at_the_shell
from tests.support.examples import examples
from tests.support.following import Consumer, store_group
from tests.support.operating import api_of
from tests.support.past_days import DAYS, app_with_past_days, as_owner, close_days, emptied, locked_days, on_day
from tests.support.people import Tenant, make_tenant


@pytest.fixture(scope="module", name="app")
def _app(server_url: str, credentials: Credentials) -> Iterator[Flask]:
    with app_with_past_days(server_url, credentials) as app:
        yield app


@pytest.fixture(name="context")
def _context(app: Flask) -> Iterator[Context]:
    with emptied(app) as context:
        yield context


@pytest.mark.parametrize("closed", [(), range(DAYS), range(0, DAYS, 3)], ids=["open", "closed", "mixed"])
@pytest.mark.parametrize("limit", [7, 100])
def test_all_days_are_read_in_order(app: Flask, context: Context, closed: range, limit: int) -> None:
    alice = make_tenant(context)
    for day in range(DAYS):
        for group in "abc":
            store_group(context.database, alice, f"{day:02}{group}1", f"{day:02}{group}2", at=on_day(day))
    close_days(context, *closed)
    consumer = Consumer(api_of(app, alice), alice.project_id)
    consumer.catch_up(limit=limit)

    assert [each[:3] for each in consumer.seen] == [f"{day:02}{g}" for day in range(DAYS) for g in "abc" for _ in "12"]
    assert len(set(consumer.seen)) == DAYS * 6


@given(data=st.data())
@hypothesis(max_examples=examples(10), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_clock_that_goes_anywhere_changes_nothing(app: Flask, context: Context, data: st.DataObject) -> None:
    """Back, ahead, into days that are closed already or that no partition is made for."""
    alice = make_tenant(context)
    consumer = Consumer(api_of(app, alice), alice.project_id)
    days = data.draw(st.lists(st.integers(-3, DAYS - 1), min_size=1, max_size=15))
    for number, day in enumerate(days):
        store_group(context.database, alice, f"{number}a", f"{number}b", at=on_day(day))
        if data.draw(st.booleans()):
            consumer.page(limit=data.draw(st.integers(1, 5)))
    consumer.catch_up(limit=4)

    assert [each[:-1] for each in consumer.seen] == [str(number) for number in range(len(days)) for _ in "ab"]
    assert len(set(consumer.seen)) == 2 * len(days)


def test_a_filter_over_all_days_shows_each_event_that_it_admits(context: Context) -> None:
    alice = make_tenant(context)
    order = random.Random(1)
    expected = []
    for number in range(120):
        event_type = order.choice(("rare", *["frequent"] * 9))
        expected += [str(number)] if event_type == "rare" else []
        store_group(context.database, alice, str(number), at=on_day(number // 6), event_type=event_type)
    close_days(context, *range(0, DAYS, 2))
    rare = Feed(alice.project_id, parse("type:rare"))

    assert _all_of(rare, context, alice, 3) == expected


def _all_of(whole: Feed, context: Context, tenant: Tenant, limit: int) -> list[str]:
    place, found = BEGIN, []
    while True:
        page = whole.page(context.reading, at_the_shell(tenant.workspace_row), place, limit)
        found += [each.event_id for each in page.data]
        if page.is_last:
            return found
        assert page.reached > place
        place = page.reached


@given(data=st.data())
@hypothesis(max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bound_and_no_closed_day_hides_or_repeats_an_event(context: Context, data: st.DataObject) -> None:
    """However little a page may judge, read and show, with a filter and without."""
    alice = make_tenant(context)
    numbers = st.integers(0, DAYS - 1)
    days = sorted(data.draw(st.lists(numbers, max_size=25)))
    kinds = [data.draw(st.sampled_from(("rare", "frequent"))) for _ in days]
    for number, (day, kind) in enumerate(zip(days, kinds, strict=True)):
        store_group(context.database, alice, f"{number}a", f"{number}b", at=on_day(day), event_type=kind)
    as_owner(context.settings, "TRUNCATE event_days")
    close_days(context, *data.draw(st.sets(numbers)))
    is_filtered = data.draw(st.booleans())
    whole = Feed(alice.project_id, parse("type:rare" if is_filtered else ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "SCANNED_MAX", data.draw(st.integers(1, 20)))
        patch.setattr(feed, "_SCANNED_MIN", 1)
        patch.setattr(feed, "_SECONDS_MAX", data.draw(st.sampled_from((-1.0, 60.0))))
        patch.setattr(feed, "PAGE_BYTES", data.draw(st.sampled_from((1, 100, 10_000))))
        found = _all_of(whole, context, alice, data.draw(st.integers(1, 9)))

    expected = [str(n) for n, kind in enumerate(kinds) for _ in "ab" if kind == "rare" or not is_filtered]
    assert [each[:-1] for each in found] == expected
    assert len(set(found)) == len(found)


def test_a_page_that_takes_too_long_ends_before_the_next_days(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = make_tenant(context)
    for day in range(DAYS):
        store_group(context.database, alice, str(day), at=on_day(day))
    close_days(context, *range(DAYS - 1))  # the last one is open: it is read first, and shown last
    monkeypatch.setattr(feed, "_SECONDS_MAX", -1.0)
    operator, whole = at_the_shell(alice.workspace_row), Feed(alice.project_id)
    first = whole.page(context.reading, operator, BEGIN, 100)

    assert not first.is_last
    assert first.reached > BEGIN
    assert _all_of(whole, context, alice, 100) == [str(day) for day in range(DAYS)]


@contextmanager
def _statements(context: Context) -> Iterator[list[tuple[str, Any]]]:
    """What is sent on the pool for reading."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        sent.append((statement, parameters))

    event.listen(context.reading.engine, "before_cursor_execute", note)
    yield sent
    event.remove(context.reading.engine, "before_cursor_execute", note)


def test_no_transaction_locks_more_than_eight_days(context: Context) -> None:
    alice = make_tenant(context)
    for day in range(DAYS):
        store_group(context.database, alice, str(day), at=on_day(day))
    with locked_days(context.reading) as counts:
        page = Feed(alice.project_id).page(context.reading, at_the_shell(alice.workspace_row), BEGIN, 100)
        # Who looks for news does the same, of its own transactions.
        watched = [Watched(alice.workspace_row, alice.project_row, 0)]
        with FewDays(lambda: context.reading.transaction(alice.workspace_row)) as transactions:
            News().newest(transactions, watched)

    assert len(page.data) == DAYS
    assert max(counts) == DAYS_AT_ONCE


def test_nor_does_one_on_a_connection_that_prepares_its_statements(context: Context) -> None:
    """Such as the worker's: from the eleventh time on PostgreSQL may use a plan for all values, and all days."""
    alice = make_tenant(context)
    for day in range(DAYS):
        store_group(context.database, alice, str(day), at=on_day(day))
    close_days(context, *range(DAYS))
    bounded = Feed(alice.project_id, bounds=Bounds(TimeRange(on_day(4, -1), on_day(4, 1)), 1 << 40))
    with locked_days(context.database) as counts:
        for _ in range(15):
            page = bounded.page(context.database, at_the_shell(alice.workspace_row), BEGIN, 100)

    assert [event.event_id for event in page.data] == ["4"]
    assert max(counts) == 1


def test_a_full_page_leaves_the_days_behind_it_alone(context: Context) -> None:
    alice = make_tenant(context)
    for day in range(DAYS):
        store_group(context.database, alice, *(f"{day}-{each}" for each in range(3)), at=on_day(day))
    close_days(context, *range(DAYS))
    with locked_days(context.reading) as counts:
        Feed(alice.project_id).page(context.reading, at_the_shell(alice.workspace_row), BEGIN, 9)

    assert len(counts) == 1


def test_a_bounded_feed_shows_its_range_in_order_and_leaves_the_other_days_alone(context: Context) -> None:
    alice = make_tenant(context)
    for day in range(DAYS):
        for group in "abc":
            store_group(context.database, alice, f"{day:02}{group}1", f"{day:02}{group}2", at=on_day(day))
    close_days(context, *range(0, DAYS, 2))
    ((position,),) = as_owner(context.settings, "SELECT max(position) FROM events WHERE event_id = '09b1'")
    bounded = Feed(alice.project_id, bounds=Bounds(TimeRange(on_day(4, 1), on_day(15)), position))
    with locked_days(context.reading) as counts:
        found = _all_of(bounded, context, alice, 5)

    assert [each[:3] for each in found] == [f"{day:02}{g}" for day in range(5, 10) for g in "abc" for _ in "12"][:-2]
    assert len(set(found)) == 28
    assert max(counts) <= DAYS_AT_ONCE
    with _statements(context) as sent:
        bounded.page(context.reading, at_the_shell(alice.workspace_row), BEGIN, 5)
    days = {each.date() for _, parameters in sent for each in _moments_in(parameters)}
    assert days <= {on_day(day).date() for day in range(4, 17)}  # the last one is where the last day ends


def _moments_in(parameters: Any) -> list[datetime]:
    values = parameters.values() if isinstance(parameters, dict) else parameters
    return [each for each in values if isinstance(each, datetime)]


def test_every_statement_finds_its_events_by_the_index_of_positions(context: Context) -> None:
    """As the app's role, through the view or the parent, with its bounds as values."""
    alice, charlie = make_tenant(context), make_tenant(context)
    for day in range(10):
        for number in range(5):
            for tenant in (alice, charlie):
                store_group(
                    context.database, tenant, *(f"{day}-{number}-{each}" for each in range(100)), at=on_day(day)
                )
    as_owner(context.settings, "ANALYZE events")
    operator = at_the_shell(alice.workspace_row)
    with _statements(context) as sent:
        bounded = Feed(alice.project_id, bounds=Bounds(TimeRange(on_day(1, -1), on_day(7, 1)), 1 << 40))
        for each in (Feed(alice.project_id), Feed(alice.project_id, parse("severity:error")), bounded):
            place = each.page(context.reading, operator, BEGIN, 350).reached
            each.page(context.reading, operator, place, 350)
        with FewDays(lambda: context.reading.transaction(alice.workspace_row)) as transactions:
            News().newest(transactions, [Watched(t.workspace_row, t.project_row, 5) for t in (alice, charlie)])

    reading = [each for each in sent if re.search(r"FROM (readable_)?events\b", each[0])]
    assert len(reading) >= 12
    for statement, parameters in reading:
        assert _scans(context, alice, statement, parameters) == {"ix_events_position"}, statement


def _scans(context: Context, tenant: Tenant, statement: str, parameters: Any) -> set[str]:
    """The indexes of events that the plan of a statement uses, and the scans of whole tables."""
    with context.reading.transaction(tenant.workspace_row) as session:
        ((plan,),) = session.connection().exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
        indexes = session.connection().exec_driver_sql(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'ix_events_position'::regclass"
        )
        of_positions = set(indexes.scalars())
    found: set[str] = set()

    def walk(node: dict[str, Any]) -> None:
        name = node.get("Index Name", node.get("Relation Name", ""))
        if name.startswith("events_") and node["Node Type"] != "Bitmap Heap Scan":  # which has its index below it
            found.add("ix_events_position" if name in of_positions else f"{node['Node Type']} {name}")
        for each in node.get("Plans", ()):
            walk(each)

    walk((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])
    return found
