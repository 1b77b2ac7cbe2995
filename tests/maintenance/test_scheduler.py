"""Tasks run when they are due: one run at a time, missed ones made up for, failed ones retried, all visible."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import pytest
from sqlalchemy import Row, text

from app.context import Context
from app.database.advisory_locks import try_lock
from app.database.engine import Database, TenantScope
from app.database.owner import Owner
from app.errors import StorageUnavailable
from app.identifiers import random_text
from app.maintenance.scheduler import pause_after, run_if_due
from app.maintenance.task import Task, TaskContext, TaskResult
from tests.support.databases import close
from tests.support.people import rows
from tests.support.servers import ENDED, OUR_LOCKS

_NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)
_EVERY = timedelta(minutes=10)

pytestmark = pytest.mark.wiring
Run = Callable[..., bool]


class _Work:
    """Does what the test sets, and counts how often."""

    def __init__(self) -> None:
        self.runs = 0
        self.then: Callable[[TaskContext], TaskResult] = lambda _: TaskResult(rows=3)

    def __call__(self, task_context: TaskContext) -> TaskResult:
        self.runs += 1
        return self.then(task_context)


@pytest.fixture(name="work")
def _work() -> _Work:
    return _Work()


@pytest.fixture(name="task")
def _task(work: _Work) -> Task:
    """One that has not run yet."""
    return Task(name=f"tried_{random_text(8)}", every=_EVERY, work=work)


@pytest.fixture(name="run")
def _run(context: Context, task: Task, work: _Work) -> Run:
    def run(after: timedelta = timedelta()) -> bool:
        before = work.runs
        run_if_due(task, _task_context(context, _NOON + after))
        return work.runs > before

    return run


def _task_context(context: Context, now: datetime, **more: Any) -> TaskContext:
    owner = Owner(context.settings.admin_database_url)
    return TaskContext(database=context.database, owner=owner, settings=context.settings, now=now, **more)


def _state(context: Context, task: Task) -> Row[Any]:
    return rows(context, "SELECT * FROM maintenance_tasks WHERE name = :name", name=task.name)[0]


def _fail(_: TaskContext) -> TaskResult:
    raise ValueError("disk full")


def _seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def test_a_task_runs_once_per_interval_however_many_ticks_come(run: Run) -> None:
    assert [run(_seconds(n)) for n in (0, 1, 300, 530, 541, 600, 1140)] == [
        True, False, False, False, True, False, True,
    ]  # fmt: skip


def test_a_run_that_was_missed_is_made_up_for_at_the_next_tick(run: Run) -> None:
    assert run()
    assert run(timedelta(days=3))
    assert not run(timedelta(days=3, seconds=1))


def test_what_a_run_did_can_be_seen(run: Run, context: Context, task: Task) -> None:
    run()
    run(_EVERY)

    state = _state(context, task)
    assert (state.runs, state.rows_done, state.failures, state.error) == (2, 6, 0, None)
    assert state.started_at == _NOON + _EVERY
    assert state.succeeded_at >= state.started_at
    assert state.seconds_total >= state.seconds > 0


def test_a_run_that_has_more_to_do_goes_on_at_the_next_tick(run: Run, work: _Work) -> None:
    work.then = lambda _: TaskResult(rows=1, has_more=True)
    assert run()
    work.then = lambda _: TaskResult(rows=1)
    assert run(_seconds(1))
    assert not run(_seconds(2))


def test_a_failure_is_kept_and_tried_again_after_pauses_that_double(
    run: Run, work: _Work, context: Context, task: Task
) -> None:
    work.then = _fail
    tried = [n for n in range(0, 120, 5) if run(_seconds(n))]

    assert tried == [0, 5, 10, 20, 40, 80]
    assert (_state(context, task).error, _state(context, task).failures, _state(context, task).failures_in_a_row) == (
        "ValueError: disk full",
        6,
        6,
    )


def test_a_run_that_found_nothing_to_do_is_no_news(
    work: _Work, context: Context, task: Task, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for n, done in enumerate(
            (TaskResult(rows=3), TaskResult(rows=0), TaskResult(rows=0, has_more=True), TaskResult(rows=0))
        ):
            work.then = lambda _, done=done: done  # type: ignore[misc]
            run_if_due(task, _task_context(context, _NOON + n * _EVERY))
        run_if_due(replace(task, is_quiet=True), _task_context(context, _NOON + 5 * _EVERY))

    assert work.runs == 5
    assert [_event_of(record) for record in caplog.records] == ["maintenance_done"] * 2


def _event_of(record: logging.LogRecord) -> str:
    message: Any = record.msg
    return str(message["event"])


def test_after_a_good_run_the_last_error_stays_to_be_read(run: Run, work: _Work, context: Context, task: Task) -> None:
    work.then = _fail
    run()
    work.then = lambda _: TaskResult(rows=0)

    assert run(_seconds(1))
    assert not run(_seconds(2))
    assert (_state(context, task).failures_in_a_row, _state(context, task).failures, _state(context, task).error) == (
        0,
        1,
        "ValueError: disk full",
    )
    assert _state(context, task).failed_at < _state(context, task).succeeded_at


@pytest.mark.parametrize(("every", "longest"), [(5, 60), (3600, 3600)])
def test_pauses_after_failures_have_an_end(every: float, longest: float) -> None:
    assert pause_after(_seconds(every), 100) == pause_after(_seconds(every), 10**9) == _seconds(longest)


def test_a_run_that_was_cut_off_counts_as_a_failure_and_is_taken_up_at_the_next_tick(
    run: Run, work: _Work, context: Context, task: Task
) -> None:
    class _KilledError(BaseException):
        pass

    def die(_: TaskContext) -> TaskResult:
        raise _KilledError

    work.then = die
    with pytest.raises(_KilledError):
        run()
    work.then = lambda _: TaskResult(rows=1)

    assert run(_seconds(1))
    assert _state(context, task).failures == 1
    assert _state(context, task).error.startswith("cut off")
    assert not run(_seconds(2))


def test_a_task_that_kills_its_worker_each_time_is_tried_again_after_pauses_too(
    run: Run, work: _Work, context: Context
) -> None:
    class _KilledError(BaseException):
        pass

    def die(_: TaskContext) -> TaskResult:
        raise _KilledError

    work.then = die
    tried = []
    for n in range(0, 120, 5):
        before = work.runs
        try:
            run(_seconds(n))
        except _KilledError:
            tried += [n] * (work.runs - before)

    assert tried == [0, 5, 10, 20, 40, 80]


def test_workers_that_get_a_tick_at_once_run_it_once(run: Run, work: _Work) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: run(), range(8)))

    assert work.runs == 1


def test_no_other_process_runs_it_while_it_runs(run: Run, work: _Work, task: Task, context: Context) -> None:
    other: list[object] = []

    def look(_: TaskContext) -> TaskResult:
        other.append(run_if_due(task, _task_context(context, _NOON + _EVERY)))
        with try_lock(context.database, task.celery_name) as is_locked:
            other.append(is_locked)
        return TaskResult(rows=0)

    work.then = look
    run()

    assert other == [None, False]
    assert work.runs == 1


def test_a_lock_that_is_released_can_be_taken_at_once(context: Context, task: Task) -> None:
    def is_free() -> bool:
        with try_lock(context.database, task.celery_name) as is_locked:
            return is_locked

    assert [is_free() for _ in range(200)] == [True] * 200


def test_a_lock_ends_with_its_connection(context: Context, task: Task, run: Run) -> None:
    with try_lock(context.database, task.celery_name) as is_locked:
        assert is_locked
        assert not run()
        rows(context, f"SELECT {ENDED} FROM {OUR_LOCKS} locktype = 'advisory' AND objsubid = 1")
    assert run()


@pytest.mark.parametrize("jump", [timedelta(days=400), timedelta(hours=1)])
def test_a_clock_that_was_ahead_does_not_stop_a_task(run: Run, jump: timedelta) -> None:
    assert run(jump)
    assert run()
    assert not run(_seconds(1))


def test_tasks_with_one_lock_never_run_at_once(context: Context, task: Task, run: Run, work: _Work) -> None:
    """However long one takes, it takes one worker process."""
    sister, brother = replace(task, lock="the same"), replace(task, name=f"{task.name}_2", lock="the same")
    other: list[object] = []

    def look(_: TaskContext) -> TaskResult:
        other.append(run_if_due(brother, _task_context(context, _NOON)))
        return TaskResult(rows=0)

    work.then = look
    assert run_if_due(sister, _task_context(context, _NOON)) == TaskResult(rows=0)
    work.then = lambda _: TaskResult(rows=0)

    assert other == [None]
    assert run_if_due(brother, _task_context(context, _NOON)) == TaskResult(rows=0)


def test_a_run_knows_when_its_time_is_over(context: Context) -> None:
    assert not _task_context(context, _NOON, ends_at=float("inf")).is_over()
    assert _task_context(context, _NOON, ends_at=0.0).is_over()


def test_a_run_that_has_lost_its_lock_does_not_end_the_one_that_took_it(
    run: Run, work: _Work, context: Context, task: Task
) -> None:
    def lose_the_lock(_: TaskContext) -> TaskResult:
        rows(context, f"SELECT {ENDED} FROM {OUR_LOCKS} locktype = 'advisory' AND objsubid = 1")
        work.then = lambda _: TaskResult(rows=7)
        run(_seconds(1))
        return TaskResult(rows=5)

    work.then = lose_the_lock
    run()

    state = _state(context, task)
    assert (work.runs, state.runs, state.rows_done, state.failures) == (2, 2, 7, 1)
    assert state.error.startswith("cut off")


def test_a_server_that_ends_idle_sessions_takes_no_lock_away(context: Context) -> None:
    connection = context.database.dedicated_connection()

    assert connection.run("SHOW idle_session_timeout", [], float("inf")) == [("0",)]
    connection.close()


def test_a_failure_that_cannot_be_recorded_is_in_the_log(
    context: Context, task: Task, work: _Work, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(context.settings.database_url, pool_size=1)

    def go_away(*_: object, **__: object) -> NoReturn:
        raise StorageUnavailable

    def fail(_: TaskContext) -> TaskResult:
        monkeypatch.setattr(database, "transaction", go_away)
        raise ValueError("disk full")

    work.then = fail
    with pytest.raises(StorageUnavailable):
        run_if_due(task, replace(_task_context(context, _NOON), database=database))
    close(database)

    lines: list[Any] = [record.msg for record in caplog.records]
    assert [(line["event"], line["task"]) for line in lines] == [("maintenance_failed", task.name)]
    assert _state(context, task).succeeded_at is None


class TestFailuresThatAreNoFaultOfOurs:
    """One line without a traceback: where in our code the database was lost is no information."""

    def _failed(self, run: Run, caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
        assert run()
        lines: list[Any] = [record.msg for record in caplog.records]
        (line,) = (line for line in lines if line["event"] == "maintenance_failed")
        return dict(line)

    def test_a_lost_database(
        self, run: Run, work: _Work, context: Context, task: Task, caplog: pytest.LogCaptureFixture
    ) -> None:
        def lose(task_context: TaskContext) -> TaskResult:
            with task_context.owner.connection() as connection:
                connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            raise AssertionError

        work.then = lose
        line = self._failed(run, caplog)

        assert not line["exc_info"]
        assert line["reason"].startswith("AdminShutdown (57P01): terminating connection")
        assert _state(context, task).error == line["reason"]

    def test_a_database_that_was_lost_behind_a_refusal(
        self, run: Run, work: _Work, context: Context, task: Task, caplog: pytest.LogCaptureFixture
    ) -> None:
        def wait_in_vain(task_context: TaskContext) -> TaskResult:
            with task_context.database.transaction(TenantScope.NONE) as session:
                session.execute(text("SET LOCAL statement_timeout = '1ms'"))
                session.execute(text("SELECT pg_sleep(60)"))
            raise AssertionError

        work.then = wait_in_vain
        line = self._failed(run, caplog)

        assert not line["exc_info"]
        assert line["reason"].startswith("QueryCanceled (57014): canceling statement")
        assert _state(context, task).error == line["reason"]

    def test_our_own_faults_show_where_they_are(self, run: Run, work: _Work, caplog: pytest.LogCaptureFixture) -> None:
        work.then = _fail

        assert self._failed(run, caplog)["exc_info"]
