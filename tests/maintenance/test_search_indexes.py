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


def test_it_stops_between_two_days_and_goes_on(two_days: Installation) -> None:
    two_days.make_days(_YESTERDAY.day - timedelta(days=1), 1)
    looks = iter([False] * len(INDEXES) + [True])

    first = index_closed_partitions(two_days.owner, now=noon(_TODAY), is_over=lambda: next(looks))
    assert first == TaskResult(len(INDEXES), has_more=True)
    assert index_closed_partitions(two_days.owner, now=noon(_TODAY)) == TaskResult(len(INDEXES))


def test_one_that_was_cut_off_is_built_anew(two_days: Installation) -> None:
    name = index_name(_YESTERDAY, "event_id")
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


def test_a_query_for_an_event_id_by_the_apps_role_uses_it(two_days: Installation) -> None:
    """As reading asks: below row level security, through the parent, within two days."""
    alice = two_days.tenant()
    for at in (noon(_YESTERDAY.day), noon(_TODAY)):
        two_days.store(alice, at, count=3_000)
    two_days.sql(
        "INSERT INTO events (project_id, received_at, event_uid, workspace_id, environment_id, source_id,"
        " source_key_id, event_id, event_type, severity, occurred_at, payload)"
        " SELECT %s, %s, gen_random_uuid(), %s, 1, %s, 1, 'the one', 'rare', 'critical', now(), '{}'",
        *(alice.project_row, noon(_YESTERDAY.day), alice.workspace_row, alice.source_row + 1_000),
    )
    index_closed_partitions(two_days.owner, now=noon(_TODAY))
    two_days.sql(f"ANALYZE events_{_TODAY:%Y%m%d}")
    query = (
        f"SELECT event_id FROM readable_events WHERE project_id = {alice.project_row}"
        " AND received_at >= '2031-03-29Z' AND received_at < '2031-03-31Z' AND event_id = 'the one'"
    )

    with two_days.database.transaction(alice.workspace_row) as session:
        plan = "\n".join(session.execute(text(f"EXPLAIN {query}")).scalars())
        assert index_name(_YESTERDAY, "event_id") in plan, plan
        assert "events_default" not in plan, plan
        assert session.execute(text(query)).scalars().all() == ["the one"]


def test_indexes_of_earlier_versions_are_replaced_or_dropped(two_days: Installation) -> None:
    index_closed_partitions(two_days.owner, now=noon(_TODAY))
    for name, definition in (("payload", "USING gin (payload jsonb_path_ops)"), ("event_id", "(project_id, event_id)")):
        index = index_name(_YESTERDAY, name)
        two_days.sql(f"DROP INDEX IF EXISTS {index}")
        two_days.sql(f"CREATE INDEX {index} ON {_YESTERDAY.name} {definition}")
    # What a killed DROP INDEX CONCURRENTLY leaves behind.
    abolished = index_name(_YESTERDAY, "source_key")
    with pytest.raises(psycopg.errors.UniqueViolation):
        two_days.sql(f"CREATE UNIQUE INDEX CONCURRENTLY {abolished} ON {_YESTERDAY.name} (source_id)")

    assert index_closed_partitions(two_days.owner, now=noon(_TODAY)) == TaskResult(1)
    found = two_days.sql(
        "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = to_regclass(%s)"
        " AND indexrelid::regclass::text LIKE 'ix\\_%%'",
        _YESTERDAY.name,
    )
    assert sorted(definition.split(" USING ")[1] for (definition,) in found) == sorted(
        definition.removeprefix("USING ") for definition in INDEXES.values()
    )


def test_a_day_of_which_events_lie_in_a_former_default_partition_is_not_touched(two_days: Installation) -> None:
    """Its counts would seem too high, be corrected, and be too low when the events are back."""
    two_days.make_days(_YESTERDAY.day - timedelta(days=1), 1)
    two_days.sql(f"CREATE TABLE events_default_former AS SELECT * FROM {_YESTERDAY.name}")

    assert index_closed_partitions(two_days.owner, now=noon(_TODAY)) == TaskResult(len(INDEXES))
    assert index_name(_YESTERDAY, "event_id") not in _indexed(two_days)
    two_days.sql("DROP TABLE events_default_former")
    assert index_closed_partitions(two_days.owner, now=noon(_TODAY)) == TaskResult(len(INDEXES))
