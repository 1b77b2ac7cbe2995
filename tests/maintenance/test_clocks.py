"""Maintenance goes by PostgreSQL's clock; what deletes asks the worker's too, and takes little at a time."""

from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from celery import Celery

from app.database.clock import SKEW_MAX, Clocks, ClockSkewError
from app.maintenance import celery_tasks
from app.maintenance.retention import DAYS_MAX, delete_expired_events, drop_old_partitions, first_kept_day
from app.maintenance.schedule import TASKS
from app.maintenance.scheduler import run_if_due
from app.maintenance.task import TaskContext, TaskResult
from tests.support.counting_events import receive
from tests.support.installation import Installation, noon
from tests.support.people import Tenant, execute, rows

_TODAY = date(2031, 3, 30)
_NOW = noon(_TODAY)
_DELETING = {
    "purge_idempotency_records",
    "purge_management_requests",
    "purge_event_ids",
    "purge_ended_jobs",
    "mark_closed_days",
    "delete_expired_events",
    "drop_old_partitions",
}

pytestmark = pytest.mark.wiring


@pytest.fixture(name="alice")
def _alice(installation: Installation) -> Tenant:
    """With an event on each of twenty days, today the last, of which she wants to keep two."""
    alice = installation.tenant()
    installation.make_days(_TODAY - timedelta(days=19), 20)
    for age in range(20):
        receive(installation, alice, noon(_TODAY - timedelta(days=age)))
    execute(installation.context, "UPDATE workspaces SET retention_days = 1 WHERE id = :id", id=alice.workspace_row)
    return alice


def _task_context(installation: Installation, now: datetime, own_now: datetime) -> TaskContext:
    return replace(installation.task_context(now), own_now=own_now)


def _ages(installation: Installation) -> list[int]:
    return sorted((_TODAY - day).days for day in installation.days() if day <= _TODAY)


# An app, for its log.
@pytest.mark.usefixtures("app", "alice")
class TestWorkerWhoseClockIsOff:
    @pytest.mark.parametrize("skew", [timedelta(days=366), timedelta(days=-400), timedelta(minutes=5, seconds=1)])
    def test_it_deletes_nothing_says_so_in_a_line_and_does_all_the_rest(
        self, installation: Installation, caplog: pytest.LogCaptureFixture, skew: timedelta
    ) -> None:
        for task in TASKS:
            run_if_due(task, _task_context(installation, _NOW, _NOW + skew))

        assert [installation.stored_on(_TODAY - timedelta(days=age)) for age in range(20)] == [1] * 20
        state = {row.name: row for row in rows(installation.context, "SELECT * FROM maintenance_tasks")}
        assert {name for name, row in state.items() if row.failures} == _DELETING
        for name in _DELETING:
            assert state[name].error.startswith("ClockSkewError: nothing is deleted while this machine's clock is ")
        lines: list[Any] = [record for record in caplog.records if record.levelname == "ERROR"]
        assert {line.msg["task"] for line in lines} == _DELETING
        assert not any(line.exc_info or line.msg.get("exc_info") for line in lines)

    def test_what_it_deletes_is_over_by_both_clocks(self, installation: Installation) -> None:
        """A minute after midnight by one, a minute before it by the other: the day before is not over."""
        midnight, minute = _NOW + timedelta(hours=12), timedelta(minutes=1)
        for now, own_now in ((midnight + minute, midnight - minute), (midnight - minute, midnight + minute)):
            task_context = _task_context(installation, now, own_now)
            drop_old_partitions(installation.owner, now=task_context.deletes_by(), days=18)

        assert _ages(installation) == list(range(19))


def test_a_tick_reads_both_clocks(installation: Installation, alice: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL's says what is due and what is kept; the worker's can only stop a deletion."""
    celery, moments = Celery("tried"), iter((_NOW, _NOW + timedelta(minutes=1)))
    celery_tasks.register(celery, installation.database, replace(installation.settings, retention_days=5))

    def tick(skew: timedelta) -> None:
        monkeypatch.setattr(celery_tasks, "read_clocks", lambda _: Clocks(now := next(moments), now + skew))
        celery.tasks["maintenance.drop_old_partitions"]()

    tick(timedelta(days=366))
    (failed,) = rows(installation.context, "SELECT * FROM maintenance_tasks")
    assert (failed.started_at, failed.failures) == (_NOW, 1)
    assert len(_ages(installation)) == 20
    tick(timedelta())
    assert len(_ages(installation)) == 20 - DAYS_MAX


@pytest.mark.usefixtures("alice")
class TestAllClocksAreWrong:
    """By a year. It cannot be detected, but little is deleted before the alert comes."""

    _WRONG = _NOW + timedelta(days=366)

    def test_a_run_drops_a_few_days_only_the_oldest_first(self, installation: Installation) -> None:
        assert drop_old_partitions(installation.owner, now=self._WRONG, days=7) == TaskResult(DAYS_MAX)
        assert _ages(installation) == list(range(20 - DAYS_MAX))

    def test_a_run_takes_a_workspaces_events_from_a_few_days_only(self, installation: Installation) -> None:
        taken = [delete_expired_events(installation.owner, now=self._WRONG) for _ in range(4)]

        assert taken == [TaskResult(DAYS_MAX), TaskResult(DAYS_MAX), TaskResult(20 - 2 * DAYS_MAX), TaskResult(0)]


@pytest.mark.parametrize("days", [0, -1, -400])
def test_today_is_never_over(days: int) -> None:
    assert first_kept_day(_NOW, days) == _TODAY


@pytest.mark.parametrize("sign", [-1, 1])
def test_two_clocks_may_differ_by_five_minutes(sign: int) -> None:
    bearable, too_far = _NOW + sign * SKEW_MAX, _NOW + sign * (SKEW_MAX + timedelta(seconds=1))

    assert Clocks(_NOW, bearable).earlier() == min(_NOW, bearable)
    with pytest.raises(ClockSkewError):
        Clocks(_NOW, too_far).earlier()


def test_the_message_says_how_far_and_in_which_direction() -> None:
    with pytest.raises(ClockSkewError, match="clock is 366 days, 0:00:00 ahead of PostgreSQL's"):
        Clocks(_NOW, _NOW + timedelta(days=366)).earlier()
    with pytest.raises(ClockSkewError, match="clock is 1 day, 1:00:00 behind PostgreSQL's"):
        Clocks(_NOW, _NOW - timedelta(hours=25)).earlier()
