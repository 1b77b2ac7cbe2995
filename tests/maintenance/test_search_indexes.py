"""Search indexes: on each closed day, on no open one, complete, and without a wait for any session."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from app.maintenance import search_indexes
from app.maintenance.blockers import Blocker, wait_for_older_snapshots
from app.maintenance.partitions import Partition
from app.maintenance.search_indexes import INDEXES, index_closed_partitions, index_name
from app.maintenance.task import TaskResult
from tests.support.installation import Installation, noon
from tests.support.servers import OUR_LOCKS
from tests.support.waiting import wait_until

_TODAY = date(2031, 3, 30)
_YESTERDAY = Partition(_TODAY - timedelta(days=1))

pytestmark = pytest.mark.wiring


@pytest.fixture(name="two_days")
def _two_days(installation: Installation) -> Installation:
    installation.make_days(_YESTERDAY.day, 2)
    installation.store(installation.tenant(), noon(_YESTERDAY.day), count=20)
    return installation


def _indexed(installation: Installation) -> set[str]:
    found = installation.sql(
        "SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid"
        " WHERE relname LIKE 'ix\\_events\\_2031%' AND indisvalid"
    )
    return {name for (name,) in found}


def test_yesterday_gets_them_and_today_does_not(two_days: Installation) -> None:
    assert index_closed_partitions(two_days.owner, now=noon(_TODAY)) == TaskResult(len(INDEXES))

    assert _indexed(two_days) == {index_name(_YESTERDAY, name) for name in INDEXES}


def test_a_day_is_closed_an_hour_after_its_end(two_days: Installation) -> None:
    midnight = datetime(2031, 3, 30, tzinfo=UTC)

    assert index_closed_partitions(two_days.owner, now=midnight + timedelta(minutes=59)) == TaskResult(0)
    assert index_closed_partitions(two_days.owner, now=midnight + timedelta(minutes=61)) == TaskResult(len(INDEXES))


def test_a_second_run_builds_nothing(two_days: Installation) -> None:
    index_closed_partitions(two_days.owner, now=noon(_TODAY))

    assert index_closed_partitions(two_days.owner, now=noon(_TODAY)) == TaskResult(0)


def test_it_stops_between_two_of_them_and_goes_on(two_days: Installation) -> None:
    looks = iter([False, False, True])

    first = index_closed_partitions(two_days.owner, now=noon(_TODAY), is_over=lambda: next(looks))
    assert first == TaskResult(2, has_more=True)
    assert index_closed_partitions(two_days.owner, now=noon(_TODAY)) == TaskResult(len(INDEXES) - 2)


def test_one_that_was_cut_off_is_built_anew(two_days: Installation) -> None:
    name = index_name(_YESTERDAY, "source")
    index_closed_partitions(two_days.owner, now=noon(_TODAY))
    # What a killed CREATE INDEX CONCURRENTLY leaves behind.
    two_days.sql(f"DROP INDEX {name}")
    with pytest.raises(psycopg.errors.UniqueViolation):
        two_days.sql(f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON {_YESTERDAY.name} (source_id)")
    assert name not in _indexed(two_days)

    assert index_closed_partitions(two_days.owner, now=noon(_TODAY)) == TaskResult(1)
    assert name in _indexed(two_days)


def test_an_event_of_a_closed_day_is_stored_while_they_are_built(two_days: Installation) -> None:
    """A writer that has not committed makes the build wait, and not the other way round."""
    late = "INSERT INTO events SELECT 1, %s, gen_random_uuid(), 1, 1, 1, 1, 'e', 'a', 'info', now(), '{}'"
    stored = []

    def store_and_end_the_run() -> bool:
        with psycopg.connect(two_days.settings.admin_database_url, options="-c lock_timeout=100ms") as writer:
            writer.execute(late, [noon(_YESTERDAY.day)])
        stored.append(1)
        return False

    index_closed_partitions(two_days.owner, now=noon(_TODAY), is_over=store_and_end_the_run)

    assert len(stored) == len(INDEXES)
    assert two_days.stored_on(_YESTERDAY.day) == 20 + len(INDEXES)


def test_a_build_that_waits_for_one_writer_makes_no_other_wait(
    two_days: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = "INSERT INTO events SELECT 1, %s, gen_random_uuid(), 1, 1, 1, 1, 'e', 'a', 'info', now(), '{}'"
    url = two_days.settings.admin_database_url
    # However short the owner's other waits are.
    arguments = two_days.owner._arguments  # noqa: SLF001
    monkeypatch.setitem(arguments, "options", arguments["options"].replace("lock_timeout=2s", "lock_timeout=1ms"))
    with ThreadPoolExecutor(1) as pool, psycopg.connect(url) as writer:
        _begin_after_the_check_for_older_ones(monkeypatch, writer, late, [noon(_YESTERDAY.day)])
        building = pool.submit(index_closed_partitions, two_days.owner, now=noon(_TODAY))
        wait_until(lambda: two_days.sql(f"SELECT 1 FROM {OUR_LOCKS} NOT granted"))
        with psycopg.connect(url, options="-c lock_timeout=100ms") as other:
            other.execute(late, [noon(_YESTERDAY.day)])
        writer.commit()
        assert building.result() == TaskResult(len(INDEXES))
    assert two_days.stored_on(_YESTERDAY.day) == 22


class TestOldTransactions:
    """A build ends when all of them have; so it begins only then, and says for whom it waits."""

    @pytest.fixture(name="old")
    def _old(self, two_days: Installation) -> Iterator[psycopg.Connection]:
        """It has looked at nothing that indexes are about."""
        with psycopg.connect(two_days.settings.database_url, application_name="nightly-report") as reader:
            reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            reader.execute("SELECT 1")
            yield reader

    def test_nothing_is_begun_that_would_wait_for_one(self, two_days: Installation, old: psycopg.Connection) -> None:
        with pytest.raises(psycopg.errors.LockNotAvailable, match=rf"pid {old.info.backend_pid} \(nightly-report"):
            index_closed_partitions(two_days.owner, now=noon(_TODAY), begin_wait_seconds=0)

        assert two_days.sql("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]
        assert _indexed(two_days) == set()

    def test_it_begins_when_they_have_ended(self, two_days: Installation, old: psycopg.Connection) -> None:
        with ThreadPoolExecutor(1) as pool:
            building = pool.submit(index_closed_partitions, two_days.owner, now=noon(_TODAY))
            looks = "SELECT 1 FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND query LIKE '%backend_xmin%'"
            wait_until(lambda: two_days.sql(looks))
            old.rollback()
            assert building.result() == TaskResult(len(INDEXES))

    def test_one_that_came_later_and_stays_for_too_long_is_named(
        self, two_days: Installation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with psycopg.connect(two_days.settings.database_url, application_name="nightly-report") as reader:
            reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            _begin_after_the_check_for_older_ones(monkeypatch, reader, "SELECT count(*) FROM projects")
            with pytest.raises(psycopg.errors.LockNotAvailable, match=rf"pid {reader.info.backend_pid} \(nightly-"):
                index_closed_partitions(two_days.owner, now=noon(_TODAY), build_seconds_max=0.3)


def _begin_after_the_check_for_older_ones(
    monkeypatch: pytest.MonkeyPatch, connection: psycopg.Connection, statement: str, *parameters: list[Any]
) -> None:
    """Open a transaction on `connection` in the moment in which the first build begins."""

    def look(*arguments: Any) -> list[Blocker]:
        found = wait_for_older_snapshots(*arguments)
        monkeypatch.setattr(search_indexes, "wait_for_older_snapshots", wait_for_older_snapshots)
        connection.execute(statement, *parameters)
        return found

    monkeypatch.setattr(search_indexes, "wait_for_older_snapshots", look)


def test_a_search_by_the_apps_role_uses_that_of_the_payload(two_days: Installation) -> None:
    """As the reading side asks: below row level security, through the parent, within two days."""
    alice = two_days.tenant()
    two_days.store(alice, noon(_YESTERDAY.day), count=2_000, payload='{"order": {"id": 7}}')
    two_days.store(alice, noon(_YESTERDAY.day), payload='{"order": {"id": 8}}')
    two_days.store(two_days.tenant(), noon(_YESTERDAY.day), payload='{"order": {"id": 8}}')
    index_closed_partitions(two_days.owner, now=noon(_TODAY))
    query = (
        "SELECT workspace_id FROM readable_events WHERE received_at >= '2031-03-29Z' AND received_at < '2031-03-31Z'"
        """ AND payload @> '{"order": {"id": 8}}'"""
    )

    with two_days.database.transaction(alice.workspace_row) as session:
        plan = "\n".join(session.execute(text(f"EXPLAIN {query}")).scalars())
        assert f"Bitmap Index Scan on {index_name(_YESTERDAY, 'payload')}" in plan
        assert session.execute(text(query)).scalars().all() == [alice.workspace_row]
