"""Retention: nothing goes before its time, nothing stays after it, and what is exported is exported whole."""

import json
import os
import stat
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.database.owner import Connection, NotTheOwnerError, Owner
from app.maintenance import export, retention
from app.maintenance.blockers import LOCK_WAIT_MILLISECONDS, in_short_tries
from app.maintenance.export import Content, ExportError, export_partition, read_export
from app.maintenance.partitions import Partition
from app.maintenance.retention import delete_expired_events, drop_old_partitions, first_kept_day
from app.maintenance.task import TaskResult
from tests.support.installation import Installation, noon
from tests.support.people import execute
from tests.support.servers import OUR_LOCKS
from tests.support.waiting import wait_until

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_TODAY = date(2031, 3, 30)
_NOW = noon(_TODAY)

pytestmark = pytest.mark.wiring


def _day(age: int) -> date:
    return _TODAY - timedelta(days=age)


@pytest.fixture(name="ten_days")
def _ten_days(installation: Installation) -> Installation:
    """Ten days with two events each of one workspace, today the last."""
    installation.make_days(_day(9), 10)
    alice = installation.tenant()
    for age in range(10):
        installation.store(alice, noon(_day(age)), count=2, payload='{"amount": 49.990, "n": 12345678901234567890123}')
    return installation


def _ages(installation: Installation) -> list[int]:
    return sorted((_TODAY - day).days for day in installation.days() if day <= _TODAY)


class TestDroppingDays:
    def test_today_and_the_days_of_the_retention_stay(self, ten_days: Installation) -> None:
        assert drop_old_partitions(ten_days.owner, now=_NOW, days=7) == TaskResult(2)

        assert _ages(ten_days) == list(range(8))
        assert [ten_days.stored_on(_day(age)) for age in (6, 7, 8, 9)] == [2, 2, 0, 0]

    def test_it_is_the_day_in_utc_that_counts(self, ten_days: Installation) -> None:
        """Half an hour before midnight in UTC it is tomorrow in Berlin, and yesterday is still kept."""
        late = datetime(2031, 3, 30, 23, 30, tzinfo=UTC)
        ten_days.sql(f"ALTER DATABASE {ten_days.owner._arguments['dbname']} SET timezone = 'Asia/Tokyo'")  # noqa: SLF001

        for _ in range(2):
            drop_old_partitions(ten_days.owner, now=late, days=1)
        assert _ages(ten_days) == [0, 1]
        drop_old_partitions(ten_days.owner, now=late + timedelta(hours=1), days=1)
        assert _ages(ten_days) == [0]

    def test_without_a_retention_all_is_kept(self, ten_days: Installation) -> None:
        assert drop_old_partitions(ten_days.owner, now=_NOW, days=None) == TaskResult(0)
        assert len(_ages(ten_days)) == 10

    def test_a_second_run_finds_nothing_to_do(self, ten_days: Installation) -> None:
        drop_old_partitions(ten_days.owner, now=_NOW, days=7)

        assert drop_old_partitions(ten_days.owner, now=_NOW, days=7) == TaskResult(0)

    def test_a_run_whose_time_is_over_says_that_there_is_more(self, ten_days: Installation) -> None:
        assert drop_old_partitions(ten_days.owner, now=_NOW, days=7, is_over=lambda: True) == TaskResult(
            0, has_more=True
        )

    def test_a_table_that_an_operator_has_hung_in_is_left_alone(self, ten_days: Installation) -> None:
        ten_days.sql("CREATE TABLE of_before (LIKE events INCLUDING CONSTRAINTS)")
        ten_days.sql("ALTER TABLE events ATTACH PARTITION of_before FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')")

        drop_old_partitions(ten_days.owner, now=_NOW, days=7)
        assert ten_days.sql("SELECT to_regclass('of_before') IS NOT NULL") == [(True,)]

    def test_a_long_reader_makes_it_wait_for_another_run_and_is_named(self, ten_days: Installation) -> None:
        with psycopg.connect(ten_days.settings.admin_database_url, application_name="nightly-report") as reader:
            reader.execute("SELECT count(*) FROM events")
            with pytest.raises(psycopg.errors.LockNotAvailable, match=rf"pid {reader.info.backend_pid} \(nightly-rep"):
                drop_old_partitions(ten_days.owner, now=_NOW, days=7)
        assert len(_ages(ten_days)) == 10

        assert drop_old_partitions(ten_days.owner, now=_NOW, days=7) == TaskResult(2)

    def test_a_reader_who_ends_meanwhile_is_waited_for(self, ten_days: Installation) -> None:
        with ThreadPoolExecutor(1) as pool, psycopg.connect(ten_days.settings.admin_database_url) as reader:
            reader.execute("SELECT count(*) FROM events")
            dropping = pool.submit(drop_old_partitions, ten_days.owner, now=_NOW, days=7)
            wait_until(lambda: ten_days.sql(f"SELECT 1 FROM {OUR_LOCKS} NOT granted"))
            reader.rollback()
            assert dropping.result() == TaskResult(2)

    def test_no_event_waits_behind_it_for_longer_than_a_try_takes(self, ten_days: Installation) -> None:
        """Whatever lock_timeout the owner's connections have, and for all tries."""
        patient = Owner(ten_days.settings.admin_database_url)
        options = patient._arguments["options"]  # noqa: SLF001
        patient._arguments["options"] = options.replace("lock_timeout=2s", "lock_timeout=60s")  # noqa: SLF001
        event = "INSERT INTO events SELECT 1, %s, gen_random_uuid(), 1, 1, 1, 1, 'e', 'a', 'info', now(), '{}'"
        bound = f"-c lock_timeout={20 * LOCK_WAIT_MILLISECONDS}ms"  # a try, on a machine that has other things to do
        url = ten_days.settings.admin_database_url
        with (
            ThreadPoolExecutor(1) as pool,
            psycopg.connect(url) as reader,
            psycopg.connect(url, options=bound, autocommit=True) as writer,
        ):
            reader.execute("SELECT count(*) FROM events")
            dropping = pool.submit(drop_old_partitions, patient, now=_NOW, days=7)
            stored = 0
            while not dropping.done():
                writer.execute(event, [_NOW])
                stored += 1
            with pytest.raises(psycopg.errors.LockNotAvailable):
                dropping.result()
        assert ten_days.stored_on(_TODAY) == 2 + stored

    def test_a_try_is_as_short_as_is_promised(self, ten_days: Installation, checkout: Path) -> None:
        with ten_days.owner.connection() as connection:
            shown = in_short_tries(connection, ["events"], lambda: connection.execute("SHOW lock_timeout").fetchone())

        assert shown == (f"{LOCK_WAIT_MILLISECONDS}ms",)
        assert f"{LOCK_WAIT_MILLISECONDS} ms" in (checkout / "docs" / "maintenance.md").read_text()

    def test_a_role_that_does_not_own_the_tables_fails_with_what_to_set(self, ten_days: Installation) -> None:
        with pytest.raises(NotTheOwnerError, match="LARIBA_ADMIN_DATABASE_URL"):
            drop_old_partitions(Owner(ten_days.settings.database_url), now=_NOW, days=7)


class TestExport:
    def test_a_day_is_exported_before_it_is_dropped(self, ten_days: Installation, tmp_path: Path) -> None:
        drop_old_partitions(ten_days.owner, now=_NOW, days=7, export_folder=tmp_path)

        names = sorted(path.name for path in tmp_path.iterdir())
        stems = [f"events_{_day(age):%Y%m%d}" for age in (9, 8)]
        assert names == sorted([f"{stem}.json" for stem in stems] + [f"{stem}.ndjson.zst" for stem in stems])
        note = json.loads((tmp_path / f"{stems[0]}.json").read_text())
        assert (note["day"], note["rows"], note["file"]) == (str(_day(9)), 2, f"{stems[0]}.ndjson.zst")
        assert _ages(ten_days) == list(range(8))

    def test_a_line_says_whose_event_it_is_and_its_payload_to_the_last_digit(
        self, ten_days: Installation, tmp_path: Path
    ) -> None:
        with ten_days.owner.connection() as connection:
            content = export_partition(connection, Partition(_TODAY), tmp_path)
        with zstd.open(tmp_path / f"events_{_TODAY:%Y%m%d}.ndjson.zst", "rb") as file:
            lines = file.read().splitlines()

        assert content.rows == len(lines) == 2
        assert b'"payload": {"n": 12345678901234567890123, "amount": 49.990}' in lines[0]
        event = json.loads(lines[0])
        assert (event["environment"], event["event_type"]) == ("production", "a.b")
        assert [event[f"{it}_id"].split("_")[0] for it in ("workspace", "project", "source", "source_key")] == [
            *("ws", "prj", "src", "key")
        ]
        assert event["received_at"] == "2031-03-30T12:00:00+00:00"

    def test_a_day_without_events_is_a_file_without_lines(self, ten_days: Installation, tmp_path: Path) -> None:
        ten_days.make_days(_day(10), 1)

        drop_old_partitions(ten_days.owner, now=_NOW, days=9, export_folder=tmp_path)
        assert read_export(tmp_path / f"events_{_day(10):%Y%m%d}.ndjson.zst") == Content(0, "0")
        assert _ages(ten_days) == list(range(10))

    @pytest.mark.parametrize("umask", [0o000, 0o777 & ~0o700, 0o777 & ~0o500])
    def test_no_other_user_can_read_it_whatever_the_umask(
        self, ten_days: Installation, tmp_path: Path, umask: int
    ) -> None:
        folder = tmp_path / "exports"
        folder.mkdir(mode=0o755)
        before = os.umask(umask)
        try:
            drop_old_partitions(ten_days.owner, now=_NOW, days=8, export_folder=folder)
        finally:
            os.umask(before)

        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert [stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()] == [0o600, 0o600]

    def test_a_folder_that_is_not_there_keeps_the_day(self, ten_days: Installation, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            drop_old_partitions(ten_days.owner, now=_NOW, days=7, export_folder=tmp_path / "gone")
        assert len(_ages(ten_days)) == 10

    @pytest.mark.parametrize(
        "damage", [lambda held: held[:-9], lambda held: held[:40] + bytes([held[40] ^ 255]) + held[41:]]
    )
    def test_a_file_that_does_not_hold_what_was_written_keeps_the_day(
        self, ten_days: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
    ) -> None:
        """As a disk that loses or flips bits between the writing and the reading."""

        def read_damaged(file: Path) -> Content:
            file.write_bytes(damage(file.read_bytes()))
            return read_export(file)

        monkeypatch.setattr(export, "read_export", read_damaged)
        with pytest.raises(ExportError):
            drop_old_partitions(ten_days.owner, now=_NOW, days=7, export_folder=tmp_path)

        assert len(_ages(ten_days)) == 10
        assert list(tmp_path.iterdir()) == []

    def test_a_file_that_reads_as_something_else_gets_no_name(
        self, ten_days: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A turned bit need not break the compression."""
        monkeypatch.setattr(export, "read_export", lambda file: read_export(file)._replace(checksum="another"))
        with ten_days.owner.connection() as connection, pytest.raises(ExportError):
            export_partition(connection, Partition(_day(9)), tmp_path)

        assert list(tmp_path.iterdir()) == []

    def test_no_writer_comes_between_the_last_check_of_a_day_and_its_drop(
        self, ten_days: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        late = "INSERT INTO events SELECT 1, %s, gen_random_uuid(), 1, 1, 1, 1, 'e', 'a', 'info', now(), '{}'"
        kept_out = []

        def reckon_beside_a_writer(connection: Connection, partition: Partition) -> Content:
            content = export.content_of(connection, partition)
            url = ten_days.settings.admin_database_url
            with psycopg.connect(url, options="-c lock_timeout=100ms") as writer:
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    writer.execute(late, [noon(partition.day)])
                writer.rollback()
            kept_out.append(partition.day)
            return content

        monkeypatch.setattr(retention, "content_of", reckon_beside_a_writer)
        drop_old_partitions(ten_days.owner, now=_NOW, days=8, export_folder=tmp_path)
        assert kept_out == [_day(9)]

    def test_a_day_that_changes_between_export_and_drop_stays_and_is_exported_again(
        self, ten_days: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def export_and_change(*arguments: Any) -> Content:
            content = export_partition(*arguments)
            ten_days.store(ten_days.tenant(), noon(_day(9)))
            return content

        with monkeypatch.context() as patch:
            patch.setattr(retention, "export_partition", export_and_change)
            with pytest.raises(ExportError):
                drop_old_partitions(ten_days.owner, now=_NOW, days=7, export_folder=tmp_path)
        assert ten_days.stored_on(_day(9)) == 3

        drop_old_partitions(ten_days.owner, now=_NOW, days=7, export_folder=tmp_path)
        assert read_export(tmp_path / f"events_{_day(9):%Y%m%d}.2.ndjson.zst").rows == 3

    def test_a_run_that_was_killed_between_export_and_drop_exports_once(
        self, ten_days: Installation, tmp_path: Path
    ) -> None:
        with ten_days.owner.connection() as connection:
            export_partition(connection, Partition(_day(9)), tmp_path)
        before = (tmp_path / f"events_{_day(9):%Y%m%d}.ndjson.zst").stat().st_mtime_ns

        drop_old_partitions(ten_days.owner, now=_NOW, days=8, export_folder=tmp_path)

        assert len(list(tmp_path.iterdir())) == 2
        assert (tmp_path / f"events_{_day(9):%Y%m%d}.ndjson.zst").stat().st_mtime_ns == before
        assert _ages(ten_days) == list(range(9))

    def test_an_earlier_file_that_was_lost_or_damaged_since_is_not_trusted(
        self, ten_days: Installation, tmp_path: Path
    ) -> None:
        with ten_days.owner.connection() as connection:
            export_partition(connection, Partition(_day(9)), tmp_path)
        (tmp_path / f"events_{_day(9):%Y%m%d}.ndjson.zst").write_bytes(b"")

        drop_old_partitions(ten_days.owner, now=_NOW, days=8, export_folder=tmp_path)

        assert read_export(tmp_path / f"events_{_day(9):%Y%m%d}.2.ndjson.zst").rows == 2

    def test_drafts_of_killed_runs_are_swept_up(self, ten_days: Installation, tmp_path: Path) -> None:
        draft = tmp_path / f".events_{_day(9):%Y%m%d}.dead.draft"
        draft.write_bytes(b"half")
        os.utime(draft, (0, 0))

        drop_old_partitions(ten_days.owner, now=_NOW, days=8, export_folder=tmp_path)
        assert not draft.exists()


class TestWorkspacesWithARetentionOfTheirOwn:
    def test_theirs_go_and_others_stay(self, installation: Installation) -> None:
        alice, charlie = installation.tenant(), installation.tenant()
        installation.make_days(_day(5), 6)
        for tenant in (alice, charlie):
            for age in range(6):
                installation.store(tenant, noon(_day(age)), count=3)
        execute(installation.context, "UPDATE workspaces SET retention_days = 2 WHERE id = :id", id=alice.workspace_row)

        assert delete_expired_events(installation.owner, now=_NOW, batch_rows=2) == TaskResult(9)

        counted = installation.sql("SELECT workspace_id, count(*), min(received_at) FROM events GROUP BY 1 ORDER BY 1")
        assert counted == [(alice.workspace_row, 9, noon(_day(2))), (charlie.workspace_row, 18, noon(_day(5)))]

    def test_it_ends_with_its_time_and_goes_on(self, installation: Installation) -> None:
        alice = installation.tenant()
        installation.make_days(_day(5), 1)
        installation.store(alice, noon(_day(5)), count=5)
        execute(installation.context, "UPDATE workspaces SET retention_days = 2 WHERE id = :id", id=alice.workspace_row)

        first = delete_expired_events(installation.owner, now=_NOW, batch_rows=2, is_over=lambda: True)
        assert first == TaskResult(2, has_more=True)
        assert delete_expired_events(installation.owner, now=_NOW, batch_rows=2) == TaskResult(3)


def test_the_oldest_day_that_is_kept_does_not_depend_on_the_hour() -> None:
    for hour in (0, 12, 23):
        assert first_kept_day(datetime(2031, 3, 30, hour, 59, 59, tzinfo=UTC), 7) == date(2031, 3, 23)
