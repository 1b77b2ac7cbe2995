"""Turns: the workspaces get them one after the other, and a job ends as its last turn says, whatever happens to it."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from app.database.engine import TenantScope
from app.errors import IdempotencyInProgress, QueryTooBroad, SourceDisabled, StorageUnavailable
from app.events.names import note_project
from app.jobs import turns
from app.jobs.turns import JobError, Kind, PendingJobs, Turn, end, note, postpone, read_pending, run_jobs
from app.maintenance.task import TaskContext, TaskResult
from app.models import Export
from app.models.job import JobState
from tests.support.exporting import add_export, export_of
from tests.support.installation import Installation
from tests.support.people import Tenant, execute

_NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _no_pauses() -> Iterator[None]:
    with patch.object(turns, "_BACK_OFF_SECONDS_MAX", 0), _pausing_by(lambda _: None):
        yield


def _pausing_by(sleep: Callable[[float], None]) -> AbstractContextManager[object]:
    """For turns.py alone: a time.sleep() that returned at once would make every waiting thread of the process spin."""
    return patch.object(turns, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))


def _run(installation: Installation, work: Callable[[Turn], None], **context: Any) -> TaskResult:
    return run_jobs((Kind(Export, work),), replace(installation.task_context(_NOW), **context))


def _complete(turn: Turn) -> None:
    with turn.database.transaction(turn.workspace_id) as session:
        end(session, Export, turn.row, JobState.COMPLETED)


def _add(installation: Installation, tenant: Tenant, **values: Any) -> int:
    return add_export(installation.context, tenant, **values)


def _state(installation: Installation, row: int) -> tuple[str, str | None]:
    export = export_of(installation.context, row)
    return export.state, export.failure


class TestOrder:
    def test_the_workspaces_get_turns_one_after_the_other_whatever_each_has_queued(
        self, installation: Installation
    ) -> None:
        alice, charlie = installation.tenant(), installation.tenant()
        jobs = [_add(installation, tenant) for tenant in (alice, alice, alice, charlie)]
        had: list[Turn] = []

        def work(turn: Turn) -> None:
            had.append(turn)
            if sum(each.row == turn.row for each in had) == 3:
                _complete(turn)

        assert _run(installation, work) == TaskResult(12)
        assert [turn.workspace_id for turn in had][:6] == [alice.workspace_row, charlie.workspace_row] * 3
        assert {turn.row for turn in had[6:]} == set(jobs[:3])

    def test_the_jobs_of_a_workspace_take_turns_too(self, installation: Installation) -> None:
        alice = installation.tenant()
        first, second = (_add(installation, alice) for _ in range(2))
        had: list[int] = []

        def work(turn: Turn) -> None:
            had.append(turn.row)
            if had.count(turn.row) == 2:
                _complete(turn)

        _run(installation, work)
        assert had == [first, second] * 2

    def test_one_that_asks_for_a_small_job_after_the_other_keeps_none_from_its_turns(
        self, installation: Installation
    ) -> None:
        alice, charlie = installation.tenant(), installation.tenant()
        _add(installation, alice)
        large = _add(installation, charlie)
        had: list[int] = []

        def work(turn: Turn) -> None:
            had.append(turn.workspace_id)
            if turn.workspace_id == alice.workspace_row and len(had) < 20:
                _add(installation, alice)
            if turn.workspace_id == alice.workspace_row or had.count(charlie.workspace_row) == 3:
                _complete(turn)

        _run(installation, work)
        assert had[:6] == [alice.workspace_row, charlie.workspace_row] * 3
        assert _state(installation, large) == ("completed", None)

    def test_a_turn_that_a_clock_has_dated_which_was_set_back_since_does_not_count(
        self, installation: Installation
    ) -> None:
        alice, charlie = installation.tenant(), installation.tenant()
        ahead = datetime.now(UTC) + timedelta(days=1)
        _add(installation, alice, turn_at=ahead, state="completed", ended_at=ahead)
        _add(installation, charlie, turn_at=datetime(2026, 6, 1, tzinfo=UTC))
        _add(installation, alice)
        had: list[int] = []

        def work(turn: Turn) -> None:
            had.append(turn.workspace_id)
            _complete(turn)

        _run(installation, work)
        assert had == [alice.workspace_row, charlie.workspace_row]

    def test_nor_does_it_within_its_workspace(self, installation: Installation) -> None:
        alice = installation.tenant()
        other = _add(installation, alice)
        ahead = _add(installation, alice, turn_at=datetime.now(UTC) + timedelta(days=1), state="running")
        had: list[int] = []

        def work(turn: Turn) -> None:
            had.append(turn.row)
            if had.count(turn.row) == 2:
                _complete(turn)

        _run(installation, work)
        assert had == [other, ahead] * 2

    def test_a_job_gets_no_turn_before_it_is_due(self, installation: Installation) -> None:
        alice = installation.tenant()
        throttled = _add(installation, alice, due_at=datetime.now(UTC) + timedelta(hours=1))
        wrongly_dated = _add(installation, alice, due_at=datetime.now(UTC) + timedelta(hours=3))

        within = patch.object(turns, "_DUE_WITHIN", text("interval '2 hours'"))
        with within, _pausing_by(_stop_at_a_pause), pytest.raises(_StopError):
            _run(installation, _complete)
        assert _state(installation, throttled) == ("queued", None)
        assert _state(installation, wrongly_dated) == ("completed", None)


class _StopError(Exception):
    pass


def _after(calls: int) -> Callable[[TaskContext], bool]:
    """A run that is over after it has been asked so often, each time anew."""
    asked: list[bool] = []

    def is_over(_: TaskContext) -> bool:
        asked.append(True)
        return len(asked) % (calls + 1) == 0

    return is_over


def _stop_at_a_pause(_: float) -> None:
    raise _StopError


class TestEnd:
    def test_a_refusal_fails_the_job_with_its_code_and_a_fault_of_ours_too(self, installation: Installation) -> None:
        alice = installation.tenant()
        refused, of_its_kind, broken, good = (_add(installation, alice) for _ in range(4))

        def work(turn: Turn) -> None:
            if turn.row == refused:
                raise SourceDisabled
            if turn.row == of_its_kind:
                raise JobError("quota_exceeded")
            if turn.row == broken:
                raise ZeroDivisionError
            _complete(turn)

        _run(installation, work)
        assert _state(installation, refused) == ("failed", "source_disabled")
        assert _state(installation, of_its_kind) == ("failed", "quota_exceeded")
        assert _state(installation, broken) == ("failed", "internal_error")
        assert _state(installation, good) == ("completed", None)

    def test_a_job_for_which_the_database_has_no_time_gets_another_turn_and_holds_up_none(
        self, installation: Installation
    ) -> None:
        slow, other = (_add(installation, installation.tenant()) for _ in range(2))
        had: list[int] = []

        def work(turn: Turn) -> None:
            had.append(turn.row)
            if turn.row == slow and had.count(slow) < 3:
                raise StorageUnavailable
            _complete(turn)

        _run(installation, work)
        assert had == [slow, other, slow, slow]
        assert _state(installation, slow) == ("completed", None)

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (StorageUnavailable(), "storage_unavailable"),
            (QueryTooBroad(), "query_too_broad"),
            (IdempotencyInProgress(), "idempotency_in_progress"),
            (JobError("disk_full", may_pass=True), "disk_full"),
        ],
        ids=repr,
    )
    def test_a_job_that_meets_the_same_in_ten_turns_in_a_row_fails_with_its_code(
        self, installation: Installation, error: Exception, code: str
    ) -> None:
        job = _add(installation, installation.tenant())
        turns_had: list[int] = []

        def work(turn: Turn) -> None:
            turns_had.append(turn.attempts)
            if len(turns_had) == 5:
                with turn.database.transaction(turn.workspace_id) as session:
                    note(session, Export, turn.row)
                return
            raise error

        _run(installation, work)
        assert turns_had == [*range(1, 6), *range(1, turns.ATTEMPTS_MAX + 1)]
        assert _state(installation, job) == ("failed", code)

    def test_a_job_that_kills_its_worker_in_ten_turns_in_a_row_fails_without_another(
        self, installation: Installation
    ) -> None:
        job = _add(installation, installation.tenant())
        had: list[int] = []

        def die(turn: Turn) -> None:
            had.append(turn.row)
            raise KeyboardInterrupt

        for _ in range(turns.ATTEMPTS_MAX):
            with pytest.raises(KeyboardInterrupt):
                _run(installation, die)
        assert _state(installation, job) == ("running", None)
        _run(installation, die)
        assert len(had) == turns.ATTEMPTS_MAX
        assert _state(installation, job) == ("failed", "internal_error")

    def test_a_job_that_notes_nothing_waits_longer_each_time_and_one_that_does_not_at_all(
        self, installation: Installation
    ) -> None:
        job = _add(installation, installation.tenant())
        waits: list[timedelta] = []
        is_noting: list[bool] = []

        def work(turn: Turn) -> None:
            export = export_of(installation.context, turn.row)
            assert export.turn_at is not None
            waits.append(export.due_at - export.turn_at)
            if is_noting:
                with turn.database.transaction(turn.workspace_id) as session:
                    note(session, Export, turn.row)
            raise _StopError

        with patch.object(turns, "_BACK_OFF_SECONDS_MAX", 60), patch.object(TaskContext, "is_over", _after(1)):
            for attempts in (0, 1, 5, 6, 9):
                execute(
                    installation.context, "UPDATE exports SET due_at = now(), attempts = :attempts", attempts=attempts
                )
                with pytest.raises(_StopError):
                    _run(installation, work)
            is_noting.append(True)
            execute(installation.context, "UPDATE exports SET due_at = now(), attempts = 9")
            with pytest.raises(_StopError):
                _run(installation, work)

        assert [round(wait.total_seconds()) for wait in waits[:5]] == [1, 2, 32, 60, 60]
        export = export_of(installation.context, job)
        assert export.attempts == 0
        assert export.due_at <= datetime.now(UTC)

    def test_what_else_ends_with_a_failed_job_does_so_in_one_transaction(self, installation: Installation) -> None:
        job = _add(installation, installation.tenant())
        seen: list[tuple[int, str]] = []

        def on_failed(session: Session, turn: Turn) -> None:
            seen.append((turn.row, session.get_one(Export, turn.row).state))
            if len(seen) == 1:
                raise StorageUnavailable

        def refuse(_: Turn) -> None:
            raise SourceDisabled

        kinds = (Kind(Export, refuse, on_failed),)
        with pytest.raises(StorageUnavailable):
            run_jobs(kinds, installation.task_context(_NOW))
        assert _state(installation, job) == ("running", None)
        run_jobs(kinds, installation.task_context(_NOW))
        assert seen == [(job, "running")] * 2
        assert _state(installation, job) == ("failed", "source_disabled")

    def test_what_a_turn_binds_to_the_log_is_of_that_turn_alone(self, installation: Installation) -> None:
        alice = installation.tenant()
        for _ in range(2):
            _add(installation, alice)
        bound: list[dict[str, Any]] = []
        structlog.contextvars.clear_contextvars()  # other tests leave some

        def work(turn: Turn) -> None:
            bound.append(structlog.contextvars.get_contextvars())
            note_project(alice.project_id)
            _complete(turn)

        _run(installation, work)
        assert [names.get("project") for names in bound] == [None, None]
        assert "project" not in structlog.contextvars.get_contextvars()

    def test_a_run_that_is_interrupted_after_its_time_fails_no_job(self, installation: Installation) -> None:
        job = _add(installation, installation.tenant())
        is_over: list[bool] = []

        def work(_: Turn) -> None:
            is_over.append(True)
            raise _StopError

        with patch.object(TaskContext, "is_over", lambda _: bool(is_over)), pytest.raises(_StopError):
            _run(installation, work)
        assert _state(installation, job) == ("running", None)

    def test_a_turn_that_was_killed_is_followed_by_another(self, installation: Installation) -> None:
        job = _add(installation, installation.tenant())

        def die(_: Turn) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            _run(installation, die)
        assert _state(installation, job) == ("running", None)

        _run(installation, _complete)
        assert _state(installation, job) == ("completed", None)

    def test_what_was_cancelled_stays_so_and_is_not_changed_by_its_turn(self, installation: Installation) -> None:
        alice = installation.tenant()
        job = _add(installation, alice)
        answers: list[bool] = []

        def work(turn: Turn) -> None:
            with turn.database.transaction(turn.workspace_id) as session:
                cancelled = {"state": JobState.CANCELLED, "ended_at": _NOW}
                assert note(session, Export, turn.row, **cancelled)
            with turn.database.transaction(turn.workspace_id) as session:
                answers.append(note(session, Export, turn.row, events=5))
                answers.append(end(session, Export, turn.row, JobState.COMPLETED))

        assert _run(installation, work) == TaskResult(1)
        assert answers == [False, False]
        export = export_of(installation.context, job)
        assert (export.state, export.events, export.ended_at) == ("cancelled", 0, _NOW)

    def test_a_turn_that_fails_after_another_has_completed_its_job_changes_and_reports_nothing(
        self, installation: Installation
    ) -> None:
        job = _add(installation, installation.tenant())

        def work(turn: Turn) -> None:
            _complete(turn)
            raise SourceDisabled

        with capture_logs() as logged:
            _run(installation, work)
        assert _state(installation, job) == ("completed", None)
        assert "job_failed" not in {line["event"] for line in logged}


def test_a_run_without_time_says_that_there_is_more(installation: Installation) -> None:
    _add(installation, installation.tenant())

    assert _run(installation, _complete, ends_at=0.0) == TaskResult(0, has_more=True)
    assert _run(installation, _complete) == TaskResult(1)
    assert _run(installation, _complete) == TaskResult(0)


def test_a_job_remembers_when_its_first_and_its_last_turn_began(installation: Installation) -> None:
    job = _add(installation, installation.tenant())
    seen: list[Export] = []

    def work(turn: Turn) -> None:
        seen.append(export_of(installation.context, turn.row))
        if len(seen) == 2:
            _complete(turn)

    _run(installation, work)
    first, second = seen
    assert first.started_at == second.started_at == first.turn_at
    assert second.turn_at is not None
    assert first.turn_at is not None
    assert second.turn_at > first.turn_at
    ended = export_of(installation.context, job).ended_at
    assert ended is not None
    assert ended > second.turn_at


def test_a_note_says_that_a_job_gets_on_and_a_postponement_does_not(installation: Installation) -> None:
    _add(installation, installation.tenant())
    shown: list[datetime | None] = []

    def work(turn: Turn) -> None:
        shown.append(export_of(installation.context, turn.row).progressed_at)
        with turn.database.transaction(turn.workspace_id) as session:
            if len(shown) in (1, 3):
                postpone(session, Export, turn.row, 0)
            elif len(shown) == 2:
                note(session, Export, turn.row)
            else:
                end(session, Export, turn.row, JobState.COMPLETED)

    _run(installation, work)
    assert shown[2] is not None
    assert shown == [None, None, shown[2], shown[2]]


def test_what_waits_is_counted_up_to_a_bound_with_the_oldest(installation: Installation) -> None:
    kinds = (Kind(Export, _complete),)

    def read(jobs_max: int) -> PendingJobs:
        with installation.database.transaction(TenantScope.ALL) as session:
            return read_pending(session, kinds, jobs_max)

    assert read(10) == (0, None, None)
    alice = installation.tenant()
    for state in ("queued", "running"):
        made_at = _NOW + timedelta(seconds=len(state))
        _add(installation, alice, state=state, created_at=made_at, progressed_at=made_at + timedelta(hours=1))
    _add(installation, alice, created_at=_NOW + timedelta(minutes=1))
    _add(installation, alice, state="failed", created_at=_NOW, ended_at=_NOW)
    assert read(10) == (3, _NOW + timedelta(seconds=6), _NOW + timedelta(minutes=1))
    assert read(1)[0] == 1
