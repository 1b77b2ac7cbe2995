"""Emptying the default partition: each event is seen once all the while, and ingest goes on."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from flask import Flask

from app.ingest.table_locks import waits_for_table
from app.maintenance import default_partition
from app.maintenance.default_partition import _Move, move_default_partition_rows
from app.maintenance.task import TaskResult
from tests.support.installation import Installation, noon
from tests.support.waiting import wait_until

_DAY = date(2031, 3, 30)
_EVENT = "INSERT INTO events SELECT 1, %s, gen_random_uuid(), 1, 1, 1, 1, 'e', 'a', 'info', now(), '{}'"
_ROWS = "SELECT * FROM events ORDER BY event_uid"

pytestmark = pytest.mark.wiring


@pytest.fixture(name="full")
def _full(installation: Installation) -> Installation:
    """Ten events of four days without partitions."""
    alice = installation.tenant()
    for age in range(4):
        for n in range(age + 1):
            installation.store(alice, noon(_DAY - timedelta(days=age)) + timedelta(seconds=n))
    return installation


def _moved(installation: Installation) -> list[date]:
    return [day for day in installation.days() if day.year == _DAY.year]


def _between_copies_and_swap(monkeypatch: pytest.MonkeyPatch, step: Callable[[], object]) -> None:
    """Do `step` when no older snapshot is left."""

    def look(*_: Any) -> list[Any]:
        step()
        return []

    monkeypatch.setattr(default_partition, "wait_for_older_snapshots", look)


def test_each_of_its_days_gets_a_partition_and_nothing_stays(full: Installation) -> None:
    before = full.sql(_ROWS)

    assert move_default_partition_rows(full.owner) == TaskResult(10)

    assert full.sql(_ROWS) == before
    assert _moved(full) == [_DAY - timedelta(days=age) for age in (3, 2, 1, 0)]
    assert [full.stored_on(_DAY - timedelta(days=age)) for age in range(4)] == [1, 2, 3, 4]
    assert full.sql("SELECT count(*) FROM events_default") == [(0,)]
    assert full.sql("SELECT relname FROM pg_class WHERE relname ~ '(next|former)$'") == []


def test_what_it_leaves_is_like_any_other_partition(full: Installation) -> None:
    looks = (
        "SELECT (SELECT array_agg(conname::text || pg_get_constraintdef(oid) ORDER BY pg_get_constraintdef(oid))"
        "        FROM pg_constraint WHERE conrelid = to_regclass(%(name)s)),"
        " (SELECT array_agg(polname::text || polroles::text || pg_get_expr(polqual, polrelid)) FROM pg_policy"
        "  WHERE polrelid = to_regclass(%(name)s)),"
        " (SELECT relrowsecurity FROM pg_class WHERE oid = to_regclass(%(name)s))"
    )

    def look(name: str) -> str:
        with full.owner.connection() as connection:
            return str(connection.execute(looks, {"name": name}).fetchone()).replace(name, "it")

    default = look("events_default")
    move_default_partition_rows(full.owner)
    full.make_days(_DAY + timedelta(days=1), 1)

    assert look("events_20310330") == look("events_20310331")
    assert look("events_default").replace("it_next_pkey", "it_pkey") == default


def test_a_second_run_finds_nothing_and_a_third_what_came_meanwhile(full: Installation) -> None:
    move_default_partition_rows(full.owner)
    assert move_default_partition_rows(full.owner) == TaskResult(0)

    full.store(full.tenant(), noon(_DAY + timedelta(days=1)), count=3)
    assert move_default_partition_rows(full.owner) == TaskResult(3)
    assert full.sql("SELECT count(*) FROM events_default") == [(0,)]


def test_copied_rows_have_row_security_before_their_table_is_a_partition(full: Installation) -> None:
    """A role that is given all tables to come, as roles for reports are, reads no other workspace in it."""
    move_default_partition_rows(full.owner, batch_rows=1, is_over=lambda: True)
    row_security = (
        "SELECT relrowsecurity, (SELECT array_agg((polname, polroles, pg_get_expr(polqual, polrelid))::text ORDER BY 1)"
        " FROM pg_policy WHERE polrelid = pg_class.oid) FROM pg_class WHERE oid = %s::text::regclass"
    )

    (policies,) = full.sql(row_security, f"events_{_DAY - timedelta(days=3):%Y%m%d}_next")
    assert [policies] == full.sql(row_security, "events")
    assert policies[0]


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles"])
def test_a_day_is_a_day_in_utc(installation: Installation, zone: str) -> None:
    alice = installation.tenant()
    edges = [datetime(2031, 3, 28, tzinfo=UTC), datetime(2031, 3, 28, 23, 59, 59, 999_999, UTC)]
    for at in edges:
        installation.store(alice, at)
    installation.sql(f"ALTER ROLE {installation.owner._arguments['user']} SET timezone = '{zone}'")  # noqa: SLF001

    installation.store(alice, datetime(2031, 3, 29, tzinfo=UTC))

    move_default_partition_rows(installation.owner)
    assert _moved(installation) == [date(2031, 3, 28), date(2031, 3, 29)]
    assert [installation.stored_on(day) for day in _moved(installation)] == [2, 1]


def test_events_of_one_moment_are_copied_in_batches_too(installation: Installation) -> None:
    """As many as an import of another system brings."""
    installation.store(installation.tenant(), noon(_DAY), count=7)

    first = move_default_partition_rows(installation.owner, batch_rows=3, is_over=lambda: True)
    assert first == TaskResult(3, has_more=True)
    assert move_default_partition_rows(installation.owner, batch_rows=3) == TaskResult(4)
    assert installation.stored_on(_DAY) == 7


def test_no_slice_is_looked_for_in_the_whole_table(installation: Installation) -> None:
    """However many events came in one moment, of which PostgreSQL thinks that any comparison finds most."""
    installation.store(installation.tenant(), noon(_DAY), count=5_000)
    installation.sql("VACUUM ANALYZE events_default")
    read = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'events_default'"
    before = installation.sql(read)
    looks = iter([False] * 9)

    done = move_default_partition_rows(
        installation.owner, batch_rows=50, rests=0, is_over=lambda: next(looks, None) is None
    )
    assert done == TaskResult(500, has_more=True)
    assert installation.sql(read) == before


class TestTakingUp:
    def test_a_run_whose_time_is_over_goes_on_where_it_was(self, full: Installation) -> None:
        before = full.sql(_ROWS)

        assert move_default_partition_rows(full.owner, batch_rows=1, is_over=lambda: True) == TaskResult(
            1, has_more=True
        )
        assert full.sql(_ROWS) == before
        assert move_default_partition_rows(full.owner) == TaskResult(9)
        assert full.sql(_ROWS) == before

    def test_an_upgrade_that_came_in_between_changes_nothing(self, full: Installation) -> None:
        """A table that is being filled is none of those that a migration knows."""
        move_default_partition_rows(full.owner, batch_rows=1, is_over=lambda: True)
        full.sql("ALTER TABLE events ADD COLUMN another text")

        assert move_default_partition_rows(full.owner) == TaskResult(10)
        assert full.sql("SELECT count(*) FROM events WHERE another IS NULL") == [(10,)]

    def test_one_that_was_cut_off_after_the_change_loses_nothing(
        self, full: Installation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The former default partition may hold what came too late for the copies."""
        late = noon(_DAY - timedelta(days=3)) - timedelta(hours=1)
        _between_copies_and_swap(monkeypatch, lambda: full.sql(_EVENT, late))
        with monkeypatch.context() as patch:
            patch.setattr(_Move, "copy", _copy_once_for_each_day(4))
            with pytest.raises(InterruptedError):
                move_default_partition_rows(full.owner)
        assert full.sql("SELECT count(*) FROM events") == [(10,)]

        assert move_default_partition_rows(full.owner) == TaskResult(1)
        assert full.stored_on(late.date()) == 5
        assert full.sql("SELECT to_regclass('events_default_former')") == [(None,)]


def _copy_once_for_each_day(days: int) -> Callable[..., bool]:
    """The copying, which dies when it comes to what is after the days."""
    left = iter(range(days))
    copy = _Move.copy

    def copy_or_die(*arguments: Any) -> bool:
        if next(left, None) is None:
            raise InterruptedError
        return copy(*arguments)

    return copy_or_die


class TestReaders:
    """Whenever they began, and whenever they look."""

    def test_one_from_before_the_copies_sees_all_and_keeps_the_change_back(
        self, app: Flask, full: Installation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        url = full.settings.admin_database_url
        with psycopg.connect(url, application_name="nightly-report") as reader:
            reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            assert reader.execute("SELECT count(*) FROM event_ledger").fetchone() == (0,)
            assert move_default_partition_rows(full.owner, snapshot_wait_seconds=0) == TaskResult(10, has_more=True)
            # It began before; it looks now.
            seen = reader.execute("SELECT count(*) FROM events").fetchone()
            pid = reader.info.backend_pid
        assert (seen, full.sql("SELECT count(*) FROM events")) == ((10,), [(10,)])
        lines: list[Any] = [record.msg for record in caplog.records if "blockers" in record.msg]
        # What else is under way for a moment stands behind it.
        assert [line["blockers"].split(",")[0] for line in lines] == [f"pid {pid} (nightly-report"]

        assert move_default_partition_rows(full.owner) == TaskResult(0)
        assert (full.sql("SELECT count(*) FROM events"), len(_moved(full))) == ([(10,)], 4)

    def test_one_from_after_the_copies_sees_all_after_the_change(
        self, full: Installation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with psycopg.connect(full.settings.admin_database_url) as reader:
            reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            _between_copies_and_swap(monkeypatch, lambda: reader.execute("SELECT 1"))
            move_default_partition_rows(full.owner)
            assert reader.execute("SELECT count(*) FROM events").fetchone() == (10,)

    def test_the_oldest_is_named_first_whatever_its_pid(
        self, app: Flask, full: Installation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        url = full.settings.admin_database_url
        with psycopg.connect(url) as one, psycopg.connect(url) as other:
            by_pid = sorted((one, other), key=lambda reader: reader.info.backend_pid)
            for reader in reversed(by_pid):
                reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                reader.execute("SELECT count(*) FROM event_ledger")
            assert move_default_partition_rows(full.owner, snapshot_wait_seconds=0).has_more
            pids = [reader.info.backend_pid for reader in reversed(by_pid)]

        (blockers,) = [record.msg["blockers"] for record in caplog.records if "blockers" in record.msg]  # type: ignore[index]
        assert [int(pid) for pid in re.findall(r"pid (\d+)", blockers) if int(pid) in pids] == pids

    def test_one_who_holds_the_table_is_named_and_keeps_nothing_from_being_taken_up(
        self, full: Installation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with psycopg.connect(full.settings.admin_database_url, application_name="nightly-report") as reader:
            _between_copies_and_swap(monkeypatch, lambda: reader.execute("SELECT count(*) FROM events"))
            with pytest.raises(
                psycopg.errors.LockNotAvailable, match=rf"events.*pid {reader.info.backend_pid} \(night"
            ):
                move_default_partition_rows(full.owner)
            monkeypatch.undo()
        assert (full.sql("SELECT count(*) FROM events"), _moved(full)) == ([(10,)], [])

        assert move_default_partition_rows(full.owner) == TaskResult(0)
        assert (full.sql("SELECT count(*) FROM events"), len(_moved(full))) == ([(10,)], 4)


class TestIngest:
    """As long as today has no partition, it writes into the default one."""

    def test_an_event_that_comes_between_copies_and_swap_is_taken_along(
        self, full: Installation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moments = [noon(_DAY) + timedelta(hours=1), noon(_DAY) - timedelta(seconds=1), noon(_DAY + timedelta(days=1))]

        def store() -> None:
            for moment in moments:
                full.sql(_EVENT, moment)

        _between_copies_and_swap(monkeypatch, store)
        move_default_partition_rows(full.owner)

        assert full.sql("SELECT count(*) FROM events") == [(13,)]
        # A day that began meanwhile has no table yet.
        assert full.sql("SELECT received_at FROM events_default") == [(moments[2],)]

    def test_it_goes_on_all_the_while_and_loses_nothing(self, full: Installation) -> None:
        """It waits a second for a table, and here never that long."""
        url = full.settings.admin_database_url
        with ThreadPoolExecutor(2) as pool, closing(psycopg.connect(url, autocommit=True)) as writer:
            writer.execute("SET lock_timeout = '1s'")
            stored: list[int] = []

            def store_until_it_is_empty() -> None:
                while len(_moved(full)) < 4:
                    writer.execute(_EVENT, [noon(_DAY) + timedelta(milliseconds=len(stored))])
                    stored.append(1)

            storing = pool.submit(store_until_it_is_empty)
            wait_until(lambda: stored)
            move_default_partition_rows(full.owner)
            storing.result()
        assert full.sql("SELECT count(*) FROM events") == [(10 + len(stored),)]
        assert full.stored_on(_DAY) == 1 + len(stored)


def test_no_copy_passes_an_event_that_is_not_committed_yet(installation: Installation) -> None:
    """Its group holds the lock that ingest takes before its moment of receipt, a minute ago; others came since."""
    now = datetime.now(UTC)
    began = now - timedelta(minutes=1)
    moments = [began - timedelta(seconds=1), began, now - timedelta(seconds=30)]
    installation.sql(_EVENT, moments[0])
    installation.sql(_EVENT, moments[2])
    with psycopg.connect(installation.settings.admin_database_url) as group:
        lock = "SELECT pg_advisory_xact_lock_shared(x'6c75000000000000'::bigint | %s)"
        group.execute(lock, [int(began.timestamp() * 1000)])
        group.execute(_EVENT, [moments[1]])
        first = move_default_partition_rows(installation.owner, snapshot_wait_seconds=0)
        assert (first, _copied(installation)) == (TaskResult(1, has_more=True), 1)

    assert move_default_partition_rows(installation.owner) == TaskResult(2)
    assert installation.sql("SELECT received_at FROM events ORDER BY 1") == [(it,) for it in moments]


def test_ingest_does_not_stand_still_for_what_a_clock_that_was_ahead_has_left(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such events may get neighbours yet, so they are copied last, with writers locked out, if they are few."""
    ahead = datetime.now(UTC) + timedelta(minutes=1)
    for n in range(3):
        installation.sql(_EVENT, ahead + timedelta(seconds=n))

    monkeypatch.setattr(default_partition, "_REST_ROWS_MAX", 3)
    assert move_default_partition_rows(installation.owner) == TaskResult(0, has_more=True)
    assert installation.sql("SELECT count(*) FROM events_default") == [(3,)]
    monkeypatch.undo()
    assert move_default_partition_rows(installation.owner) == TaskResult(3)
    assert installation.sql("SELECT count(*) FROM events_default") == [(0,)]


def _copied(installation: Installation) -> int:
    tables = installation.sql("SELECT relname FROM pg_class WHERE relname ~ '^events_[0-9]{8}_next$'")
    return sum(installation.sql(f"SELECT count(*) FROM {name}")[0][0] for (name,) in tables)


@pytest.mark.parametrize("is_in_use", [True, False])
def test_a_lock_of_it_is_one_that_ingest_waits_for_while_today_has_no_partition(
    installation: Installation, *, is_in_use: bool
) -> None:
    if not is_in_use:
        installation.make_days(datetime.now(UTC).date(), 2)
    with (
        psycopg.connect(installation.settings.admin_database_url) as session,
        closing(installation.database.dedicated_connection()) as connection,
    ):
        session.execute("LOCK TABLE events_default IN ACCESS EXCLUSIVE MODE")
        assert waits_for_table(connection) is is_in_use
        session.rollback()
        assert not waits_for_table(connection)
