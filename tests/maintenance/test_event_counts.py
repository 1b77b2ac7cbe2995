"""Counts by hour are as many as the events, whatever is deleted, and folded before or after that."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from typing import Any, cast

import psycopg
import pytest
from flask import Flask

from app.database.owner import Connection
from app.maintenance.event_counts import Difference, correct_counts
from app.maintenance.partitions import Partition
from app.maintenance.retention import delete_expired_events, drop_old_partitions
from app.maintenance.search_indexes import index_closed_partitions
from app.maintenance.task import TaskResult
from app.maintenance.usage import fold_usage
from app.monitoring.system_status import read_system_status
from tests.support.counting_events import differences, receive
from tests.support.installation import Installation, noon
from tests.support.people import Tenant, execute
from tests.support.servers import OUR_LOCKS
from tests.support.waiting import wait_until

_TODAY = date(2031, 3, 30)
_OLD = Partition(_TODAY - timedelta(days=8))
_KEPT = Partition(_TODAY - timedelta(days=7))
_HOURS = "SELECT sum(events)::int FROM event_hours WHERE hour >= %s AND hour < %s"

# The tokens, kinds and positions of a segment.
_NOTHING = ", ".join(["'{}'"] * 8)

pytestmark = pytest.mark.wiring


@pytest.fixture(name="two_days")
def _two_days(installation: Installation) -> Installation:
    """One past a retention of seven days, and the first that is kept."""
    installation.make_days(_OLD.day, 2)
    return installation


@pytest.fixture(name="alice")
def _alice(two_days: Installation) -> Tenant:
    """Her workspace keeps its own events for a week."""
    alice = two_days.tenant()
    execute(two_days.context, "UPDATE workspaces SET retention_days = 7 WHERE id = :id", id=alice.workspace_row)
    return alice


def _counted(installation: Installation, partition: Partition) -> int:
    return installation.sql(_HOURS, partition.begin, partition.end)[0][0] or 0


class TestDeletedEvents:
    def test_folded_ones_are_subtracted_and_no_count_of_nothing_stays(
        self, two_days: Installation, alice: Tenant
    ) -> None:
        charlie = two_days.tenant()
        for tenant in (alice, charlie):
            receive(two_days, tenant, noon(_OLD.day), count=12)
        fold_usage(two_days.database)

        assert delete_expired_events(two_days.owner, now=noon(_TODAY), batch_rows=5) == TaskResult(12)

        assert differences(two_days) == []
        assert two_days.sql("SELECT DISTINCT project_id FROM event_hours") == [(charlie.project_row,)]
        assert _counted(two_days, _OLD) == 12

    def test_those_that_are_not_folded_yet_are_subtracted_too(self, two_days: Installation, alice: Tenant) -> None:
        receive(two_days, alice, noon(_OLD.day), count=12)

        delete_expired_events(two_days.owner, now=noon(_TODAY))
        assert differences(two_days) == []
        assert _counted(two_days, _OLD) == -12
        fold_usage(two_days.database)
        assert differences(two_days) == []
        assert _counted(two_days, _OLD) == 0

    def test_a_batch_that_is_cut_off_has_deleted_and_subtracted_nothing(
        self, two_days: Installation, alice: Tenant
    ) -> None:
        receive(two_days, alice, noon(_OLD.day), count=12)
        fold_usage(two_days.database)
        two_days.sql("ALTER TABLE event_hours ADD CHECK (events > 0)")

        with pytest.raises(psycopg.errors.CheckViolation):
            delete_expired_events(two_days.owner, now=noon(_TODAY))
        assert differences(two_days) == []
        assert two_days.stored_on(_OLD.day) == 12


class TestDroppedDays:
    def test_a_day_takes_its_counts_with_it_folded_or_not(self, two_days: Installation) -> None:
        charlie = two_days.tenant()
        receive(two_days, charlie, noon(_OLD.day), count=12)
        fold_usage(two_days.database)
        for day in (_OLD, _KEPT):
            receive(two_days, charlie, noon(day.day), count=6)

        assert drop_old_partitions(two_days.owner, now=noon(_TODAY), days=7) == TaskResult(1)

        assert differences(two_days) == []
        fold_usage(two_days.database)
        assert differences(two_days) == []
        assert (_counted(two_days, _OLD), _counted(two_days, _KEPT)) == (0, 6)
        # Usage counts what came in, whatever became of it.
        assert two_days.sql("SELECT sum(events)::int FROM usage_hours WHERE outcome = 'stored'") == [(24,)]

    def test_a_fold_that_has_taken_rows_of_it_is_waited_for(self, two_days: Installation) -> None:
        receive(two_days, two_days.tenant(), noon(_OLD.day), count=12)
        with ThreadPoolExecutor(2) as pool, psycopg.connect(two_days.settings.admin_database_url) as key_holder:
            # The fold comes to a stand behind the counts, where it updates the key.
            key_holder.execute("SELECT FROM source_keys FOR UPDATE")
            folding = pool.submit(fold_usage, two_days.database)
            wait_until(lambda: two_days.sql(f"SELECT 1 FROM {OUR_LOCKS} NOT granted"))
            dropping = pool.submit(drop_old_partitions, two_days.owner, now=noon(_TODAY), days=7)
            wait_until(lambda: two_days.sql(f"SELECT count(*) FROM {OUR_LOCKS} NOT granted")[0][0] >= 2)
            key_holder.rollback()
            folding.result()
            assert dropping.result() == TaskResult(1)

        assert _counted(two_days, _OLD) == 0
        assert differences(two_days) == []

    def test_segments_go_with_it_but_one_that_reaches_into_the_next_day(self, two_days: Installation) -> None:
        alice = two_days.tenant()
        ends = [_OLD.end - timedelta(microseconds=1), _OLD.end]
        for n, end in enumerate(ends):
            segment = f"INSERT INTO event_segments VALUES (%s, %s, %s, %s, %s, %s, 1000, {_NOTHING})"
            two_days.sql(segment, alice.project_row, n, n, alice.workspace_row, _OLD.begin, end)

        drop_old_partitions(two_days.owner, now=noon(_TODAY), days=7)
        assert two_days.sql("SELECT ends_at FROM event_segments") == [(_OLD.end,)]

    def test_a_workspace_with_a_shorter_retention_loses_its_segments_too(
        self, two_days: Installation, alice: Tenant
    ) -> None:
        charlie = two_days.tenant()
        segment = f"INSERT INTO event_segments VALUES (%s, 1, 1, %s, %s, %s, 1000, {_NOTHING})"
        for tenant, day in ((alice, _OLD), (charlie, _OLD)):
            two_days.sql(segment, tenant.project_row, tenant.workspace_row, day.begin, noon(day.day))

        delete_expired_events(two_days.owner, now=noon(_TODAY))
        assert two_days.sql("SELECT project_id FROM event_segments") == [(charlie.project_row,)]


class _Interrupted:
    """A connection; `step` is done once, behind the first statement that reads the events."""

    def __init__(self, connection: Connection, step: Callable[[], object]) -> None:
        self._connection = connection
        self._steps = iter([step])
        self.transaction = connection.transaction

    def execute(self, statement: Any, *parameters: Any) -> Any:
        done = self._connection.execute(statement, *parameters)
        if not isinstance(statement, str) and (step := next(self._steps, None)):
            step()
        return done


class TestComparing:
    @pytest.fixture(name="folded")
    def _folded(self, two_days: Installation, alice: Tenant) -> Installation:
        receive(two_days, alice, noon(_OLD.day), count=12)
        fold_usage(two_days.database)
        return two_days

    def test_counts_that_are_true_are_left_alone(
        self, app: Flask, folded: Installation, caplog: pytest.LogCaptureFixture
    ) -> None:
        receive(folded, folded.tenant(), noon(_OLD.day), count=6)
        before = folded.sql("SELECT ctid::text, xmin::text FROM event_hours ORDER BY 1")

        index_closed_partitions(folded.owner, now=noon(_TODAY))

        assert folded.sql("SELECT ctid::text, xmin::text FROM event_hours ORDER BY 1") == before
        assert read_system_status(folded.database).event_counts_corrected == 0
        assert "event_counts_differ" not in caplog.text

    def test_too_few_and_too_many_are_corrected_logged_and_counted(
        self, app: Flask, folded: Installation, caplog: pytest.LogCaptureFixture
    ) -> None:
        folded.sql("UPDATE event_hours SET events = 7 WHERE event_type = 'order.created' AND severity = 'info'")
        folded.sql("DELETE FROM event_hours WHERE event_type = 'payment.failed'")
        folded.sql("UPDATE event_hours SET hour = hour - interval '1 hour' WHERE event_type = 'payment.settled'")

        index_closed_partitions(folded.owner, now=noon(_TODAY))

        assert differences(folded) == []
        assert _counted(folded, _OLD) == 12
        (line,) = [record.msg for record in caplog.records if "event_counts_differ" in str(record.msg)]
        expected = {"partition": _OLD.name, "counts": 7, "uncounted": 8, "overcounted": 9}
        assert cast("dict[str, Any]", line).items() >= expected.items()
        assert read_system_status(folded.database).event_counts_corrected == 17

    def test_a_fold_in_between_is_not_lost(self, folded: Installation, alice: Tenant) -> None:
        folded.sql("UPDATE event_hours SET events = events + 1")

        def fold_more() -> None:
            receive(folded, alice, noon(_OLD.day), count=12)
            fold_usage(folded.database)

        with folded.owner.connection() as connection:
            found = correct_counts(cast("Connection", _Interrupted(connection, fold_more)), _OLD)

        assert found == Difference(counts=6, uncounted=0, overcounted=6)
        assert differences(folded) == []
        assert _counted(folded, _OLD) == 24

    def test_two_corrections_at_once_correct_once(self, folded: Installation) -> None:
        folded.sql("UPDATE event_hours SET events = events + 1")
        with folded.owner.connection() as one, folded.owner.connection() as other:
            interrupted = cast("Connection", _Interrupted(one, lambda: correct_counts(other, _OLD)))
            assert correct_counts(interrupted, _OLD) == Difference(0, 0, 0)

        assert differences(folded) == []
        assert _counted(folded, _OLD) == 12
