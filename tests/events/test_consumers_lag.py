"""How far a consumer is behind, on a database whose clock a test sets: over many days, bounded, always answered."""

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from flask import Flask
from sqlalchemy import event

from app.context import Context
from app.credentials.verification import Credentials
from app.database.engine import Database
from app.errors import QueryTooBroad, StorageUnavailable
from app.events.consumers import lag
from app.events.statements import DAYS_AT_ONCE, QueryClass
from app.monitoring import consumer_status
from app.monitoring.consumer_status import read_consumer_status
from tests.support.consuming import Worker, worker_of
from tests.support.following import store_group
from tests.support.operating import ApiClient, api_of
from tests.support.past_days import DAYS, app_with_past_days, as_owner, close_days, emptied, locked_days, on_day
from tests.support.people import Tenant, make_tenant

_DAY_SECONDS = 86_400


@pytest.fixture(scope="module", name="app")
def _app(server_url: str, credentials: Credentials) -> Iterator[Flask]:
    with app_with_past_days(server_url, credentials) as app:
        yield app


@pytest.fixture(name="context")
def _context(app: Flask) -> Iterator[Context]:
    with emptied(app) as context:
        yield context


@pytest.fixture(autouse=True)
def _has_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with other work counts as far as an idle one."""
    monkeypatch.setattr(lag, "_SECONDS_MAX", 60.0)
    monkeypatch.setattr(lag, "LAG", QueryClass(10.0))
    monkeypatch.setattr(consumer_status, "_SECONDS_MAX", 60.0)
    monkeypatch.setattr(consumer_status, "_DEADLINE_SECONDS", 10.0)


@pytest.fixture(name="alice")
def _alice(context: Context) -> Tenant:
    return make_tenant(context)


@pytest.fixture(name="api")
def _api(app: Flask, alice: Tenant) -> ApiClient:
    return api_of(app, alice)


@pytest.fixture(name="worker")
def _worker(api: ApiClient, alice: Tenant) -> Worker:
    return worker_of(api, "billing", alice.project_id, start="start")


def _lag_of(worker: Worker) -> tuple[int, bool, float]:
    """With the age in days, whole ones."""
    found = worker.state()["lag"]
    assert found["seconds"] is not None
    return found["events"], found["is_more"], round((found["seconds"] - _age(0)) / _DAY_SECONDS)


def _age(day: int) -> float:
    """How many seconds ago that day's events were received."""
    return (datetime.now(UTC) - on_day(day)).total_seconds()


class TestTheLag:
    def test_of_a_consumer_that_is_up_to_date_is_nothing(self, context: Context, worker: Worker, alice: Tenant) -> None:
        nothing = {"events": 0, "is_more": False, "seconds": 0}
        assert worker.state()["lag"] == nothing
        store_group(context.database, alice, "1")
        worker.read()
        worker.commit()

        assert worker.state()["lag"] == nothing

    def test_is_what_is_not_committed_and_the_age_of_the_oldest(
        self, context: Context, worker: Worker, alice: Tenant
    ) -> None:
        for day in range(5):
            store_group(context.database, alice, f"{day}a", f"{day}b", at=on_day(day))
        assert _lag_of(worker) == (10, False, 0)

        worker.read(limit=5)  # and one of two that are stored together
        worker.commit()

        assert _lag_of(worker) == (5, False, -2)

    def test_counts_what_the_query_admits(self, context: Context, api: ApiClient, alice: Tenant) -> None:
        errors = worker_of(api, "errors", alice.project_id, q="severity:error", start="start")
        for day in range(6):
            severity = "error" if day % 2 else "info"
            store_group(context.database, alice, str(day), at=on_day(day), severity=severity)

        assert _lag_of(errors) == (3, False, -1)

    @pytest.mark.parametrize("closed", [(), range(DAYS), range(0, DAYS, 3)], ids=["open", "closed", "mixed"])
    def test_is_exact_over_many_days(self, context: Context, worker: Worker, alice: Tenant, closed: range) -> None:
        for day in range(DAYS):
            store_group(context.database, alice, f"{day}a", f"{day}b", at=on_day(day))
        close_days(context, *closed)

        assert _lag_of(worker) == (2 * DAYS, False, 0)
        worker.read(limit=7)
        worker.commit()
        assert _lag_of(worker) == (2 * DAYS - 7, False, -3)

    @pytest.mark.parametrize("closed", [(), range(DAYS - 1), range(10)], ids=["open", "closed", "half"])
    def test_is_counted_to_a_bound_and_has_the_oldest_nevertheless(
        self, context: Context, worker: Worker, alice: Tenant, monkeypatch: pytest.MonkeyPatch, closed: range
    ) -> None:
        for day in range(DAYS):
            store_group(context.database, alice, *(f"{day}-{each}" for each in range(4)), at=on_day(day))
        close_days(context, *closed)
        monkeypatch.setattr(lag, "_EVENTS_MIN", 2)
        monkeypatch.setattr(lag, "EVENTS_MAX", 9)

        assert _lag_of(worker) == (9, True, 0)
        worker.read(limit=4 * DAYS - 9)
        worker.commit()
        assert _lag_of(worker)[:2] == (9, False)

    def test_does_not_claim_that_nothing_is_behind_when_it_has_not_looked(
        self, context: Context, api: ApiClient, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rare = worker_of(api, "rare", alice.project_id, q="type:rare", start="start")
        for number in range(30):
            store_group(context.database, alice, str(number))
        store_group(context.database, alice, "rare", event_type="rare")
        monkeypatch.setattr(lag, "EVENTS_MAX", 9)

        assert rare.state()["lag"] == {"events": 0, "is_more": True, "seconds": None}

    def test_ends_when_time_is_over(
        self, context: Context, worker: Worker, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store_group(context.database, alice, "1")
        monkeypatch.setattr(lag, "_SECONDS_MAX", -1.0)

        assert worker.state()["lag"] == {"events": 0, "is_more": True, "seconds": None}

    def test_of_a_statement_that_takes_too_long_is_what_was_counted_before(
        self, context: Context, worker: Worker, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for day in range(DAYS):
            store_group(context.database, alice, str(day), at=on_day(day))
        close_days(context, *range(DAYS))
        counted, calls = lag._counted, iter(range(100))  # noqa: SLF001

        def slow(*arguments: Any) -> Any:
            if next(calls) == 1:
                raise QueryTooBroad
            return counted(*arguments)

        monkeypatch.setattr(lag, "_counted", slow)

        assert _lag_of(worker) == (DAYS_AT_ONCE, True, 0)

    def test_is_bounded_by_a_time_out_of_its_own(
        self, context: Context, worker: Worker, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The answer is whole nevertheless."""
        store_group(context.database, alice, "1")
        locking = psycopg.connect(context.settings.admin_database_url)
        monkeypatch.setattr(lag, "LAG", QueryClass(0.1))
        with locking:
            locking.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")

            assert worker.state()["lag"] == {"events": 0, "is_more": True, "seconds": None}

    def test_without_a_connection_to_read_events_leaves_the_answer_as_it_is(
        self, context: Context, worker: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        transaction = Database.transaction

        def away(database: Database, *arguments: Any, **named: Any) -> Any:
            if database.engine is context.reading.engine:
                raise StorageUnavailable
            return transaction(database, *arguments, **named)

        monkeypatch.setattr(Database, "transaction", away)

        assert worker.state()["lag"] == {"events": 0, "is_more": True, "seconds": None}

    def test_locks_no_more_than_eight_days_in_a_transaction(
        self, context: Context, worker: Worker, alice: Tenant
    ) -> None:
        for day in range(DAYS):
            store_group(context.database, alice, str(day), at=on_day(day))
        with locked_days(context.reading) as counts:
            assert _lag_of(worker) == (DAYS, False, 0)

        assert max(counts) == DAYS_AT_ONCE

    def test_finds_its_events_by_the_index_of_positions(
        self, context: Context, api: ApiClient, alice: Tenant, charlie: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As the app's role, through the view or the parent, with its bounds as values."""
        order = random.Random(1)
        for day in range(10):
            for number in range(5):
                ids = [f"{day}-{number}-{each}" for each in range(100)]
                for tenant in (alice, charlie):
                    store_group(
                        context.database, tenant, *ids, at=on_day(day), severity=order.choice(("info", "error"))
                    )
        monkeypatch.setattr(lag, "EVENTS_MAX", 200)
        as_owner(context.settings, "ANALYZE events")
        workers = [
            worker_of(api, "all", alice.project_id, start="start"),
            worker_of(api, "some", alice.project_id, q="severity:error", start="start"),
        ]
        for each in workers:
            each.read(limit=300)
            each.commit()
        with _plans(context.reading) as plans:
            for each in workers:
                each.state()
        with _plans(context.database) as of_status:
            read_consumer_status(context.database, datetime.now(UTC))

        assert len(plans) >= 4
        assert len(of_status) >= 1
        for plan in plans + of_status:
            assert set(re.findall(r"Index (?:Only )?Scan using events_\w+?_(\w+) on", plan)) <= {
                "project_id_position_idx"
            }, plan
            assert "Seq Scan on events" not in plan


class TestAMoment:
    """To begin at, or to seek."""

    @pytest.mark.parametrize("closed", [(), range(0, DAYS, 3)], ids=["open", "mixed"])
    @pytest.mark.parametrize("day", [0, 1, 9, DAYS - 1])
    def test_shows_what_was_received_from_then_on(
        self, context: Context, api: ApiClient, worker: Worker, alice: Tenant, closed: range, day: int
    ) -> None:
        for number in range(DAYS):
            store_group(context.database, alice, f"{number}a", f"{number}b", at=on_day(number))
        close_days(context, *closed)
        begins = on_day(day).isoformat()
        expected = [str(number) for number in range(day, DAYS) for _ in "ab"]

        moved = worker.seek(begins)
        assert datetime.fromisoformat((moved.json or {})["position_at"]) == on_day(day)
        assert [each[:-1] for each in worker.read()] == expected
        made = worker_of(api, "late", alice.project_id, start=begins)
        assert [each[:-1] for each in made.read()] == expected

    def test_between_two_events_shows_the_second(self, context: Context, worker: Worker, alice: Tenant) -> None:
        for day in (3, 12):
            store_group(context.database, alice, str(day), at=on_day(day))

        for day in (4, 11):
            assert worker.seek(on_day(day).isoformat()).status_code == 200
            assert worker.read() == ["12"]

    def test_leaves_out_none_that_has_an_earlier_position(
        self, context: Context, worker: Worker, alice: Tenant
    ) -> None:
        """Groups that are stored at once take their positions and their moments in different orders."""
        store_group(context.database, alice, "before", at=on_day(2))
        store_group(context.database, alice, "first", at=on_day(3) + timedelta(seconds=4))
        store_group(context.database, alice, "second", at=on_day(3))
        store_group(context.database, alice, "after", at=on_day(4))

        worker.seek(on_day(3).isoformat())
        assert worker.read() == ["first", "second", "after"]

    @pytest.mark.parametrize("moment", ["0001-01-01T00:00:00Z", "1969-12-31T00:00:00Z", "2000-01-01T00:00:00+14:00"])
    def test_before_all_events_is_the_start(self, context: Context, worker: Worker, alice: Tenant, moment: str) -> None:
        store_group(context.database, alice, "1")
        worker.seek("now")

        assert worker.seek(moment).status_code == 200
        assert worker.read() == ["1"]

    def test_behind_all_events_is_now(self, context: Context, worker: Worker, alice: Tenant) -> None:
        store_group(context.database, alice, "1", at=on_day(1))

        assert worker.seek("9999-12-31T23:59:59Z").status_code == 200
        assert worker.read() == []
        store_group(context.database, alice, "2", at=on_day(2))
        assert worker.read() == ["2"]

    def test_locks_no_more_than_eight_days_in_a_transaction(
        self, context: Context, worker: Worker, alice: Tenant
    ) -> None:
        store_group(context.database, alice, "last", at=on_day(DAYS - 1))
        for day in range(DAYS):
            store_group(context.database, make_tenant(context), str(day), at=on_day(day))
        with locked_days(context.reading) as counts:
            worker.seek(on_day(0).isoformat())

        assert max(counts) == DAYS_AT_ONCE
        assert worker.read() == ["last"]

    def test_of_a_consumer_or_project_that_is_not_there_is_not_found(self, api: ApiClient) -> None:
        assert Worker(api, "none").seek(on_day(0).isoformat()).status_code == 404
        assert Worker(api, "none").put("prj_none", start=on_day(0).isoformat()).status_code == 404

    def test_needs_its_offset(self, worker: Worker) -> None:
        for text in ("2026-06-01T10:00:00", "2026-06-01", "yesterday", "2026-13-01T10:00:00Z"):
            assert worker.seek(text).status_code == 422


class TestTheStatus:
    def test_names_the_one_that_is_furthest_behind(self, app: Flask, context: Context, alice: Tenant) -> None:
        bob, dora = make_tenant(context), make_tenant(context)
        for tenant, name in ((alice, "a"), (bob, "b"), (dora, "d")):
            worker_of(api_of(app, tenant), name, tenant.project_id, start="start")
        for day in range(DAYS):
            store_group(context.database, bob if day == 2 else alice, str(day), at=on_day(day + 1 if day < 2 else day))
        close_days(context, *range(0, DAYS, 2))
        status = read_consumer_status(context.database, datetime.now(UTC))

        assert status is not None
        assert (status.number, status.idle, status.furthest_behind) == (3, 0, f"{alice.workspace_id} a")
        assert abs(status.lag_seconds - _age(1)) < 60

    def test_of_consumers_that_are_up_to_date_is_no_lag(self, context: Context, worker: Worker, alice: Tenant) -> None:
        store_group(context.database, alice, "1", "2")
        worker.read()
        worker.commit()
        status = read_consumer_status(context.database, datetime.now(UTC))

        assert status is not None
        assert (status.number, status.idle, status.lag_seconds, status.furthest_behind) == (1, 0, 0.0, None)

    def test_counts_what_the_query_leaves_out_until_an_empty_page_is_committed(
        self, context: Context, api: ApiClient, alice: Tenant
    ) -> None:
        worker = worker_of(api, "billing", alice.project_id, q="severity:critical", start="start")
        store_group(context.database, alice, "1", at=on_day(3))
        before = read_consumer_status(context.database, datetime.now(UTC))
        assert before is not None
        assert abs(before.lag_seconds - _age(3)) < 60
        assert worker.state()["lag"] == {"events": 0, "is_more": False, "seconds": 0}

        assert worker.read() == []
        worker.commit()
        after = read_consumer_status(context.database, datetime.now(UTC))
        assert after is not None
        assert (after.lag_seconds, after.furthest_behind) == (0.0, None)

    def test_leaves_out_what_has_not_committed_for_a_day(self, context: Context, worker: Worker, alice: Tenant) -> None:
        store_group(context.database, alice, "1", "2")
        worker.read(limit=1)
        worker.commit()
        fresh, later = (
            read_consumer_status(context.database, datetime.now(UTC) + timedelta(hours=hours)) for hours in (23, 25)
        )

        assert fresh is not None
        assert later is not None
        assert (fresh.idle, fresh.furthest_behind) == (0, f"{alice.workspace_id} billing")
        assert (later.number, later.idle, later.lag_seconds, later.furthest_behind) == (1, 1, 0.0, None)

    def test_begins_in_the_middle_of_a_group(self, context: Context, worker: Worker, alice: Tenant) -> None:
        store_group(context.database, alice, "1", "2", at=on_day(3))
        worker.read(limit=1)
        worker.commit()
        status = read_consumer_status(context.database, datetime.now(UTC))

        assert status is not None
        assert abs(status.lag_seconds - _age(3)) < 60

    def test_locks_no_more_than_eight_days_in_a_transaction(
        self, context: Context, worker: Worker, alice: Tenant
    ) -> None:
        store_group(context.database, alice, "last", at=on_day(DAYS - 1))
        for day in range(DAYS):
            store_group(context.database, make_tenant(context), str(day), at=on_day(day))
        close_days(context, *range(0, DAYS, 2))
        with locked_days(context.database) as counts:
            status = read_consumer_status(context.database, datetime.now(UTC))

        assert status is not None
        assert abs(status.lag_seconds - _age(DAYS - 1)) < 60
        assert 0 < max(counts) <= DAYS_AT_ONCE

    def test_is_left_out_if_it_cannot_be_read(self, context: Context, worker: Worker) -> None:
        with psycopg.connect(context.settings.admin_database_url) as owner:
            owner.execute("LOCK TABLE consumers IN ACCESS EXCLUSIVE MODE")

            assert read_consumer_status(context.database, datetime.now(UTC)) is None


@contextmanager
def _plans(database: Database) -> Iterator[list[str]]:
    """How PostgreSQL reads events, by each statement that does."""
    plans: list[str] = []

    def explain(_connection: object, cursor: Any, statement: str, parameters: Any, *_: object) -> None:
        if re.search(r"FROM (readable_)?events\b", statement):
            found = cursor.connection.execute(f"EXPLAIN {statement}", parameters).fetchall()
            plans.append("\n".join(line for (line,) in found))

    event.listen(database.engine, "before_cursor_execute", explain)
    yield plans
    event.remove(database.engine, "before_cursor_execute", explain)
