"""Each task done by four at once; killed at random points, with ticks from two beats for two workers: exact each time.

Which tasks there are, app/maintenance/schedule.py says; what each has to do here, tests/support/maintenance_work.py.
"""

import os
import random
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
from celery import Celery
from psycopg.rows import namedtuple_row

from app.config import Settings
from app.database.engine import Database
from app.database.migrate import migrate
from app.database.owner import Owner
from app.errors import StorageUnavailable
from app.maintenance.schedule import TASKS
from app.maintenance.segments import TASK_NAME as BUILD_EVENT_SEGMENTS
from app.maintenance.task import Task, TaskContext
from app.worker import create_celery
from tests.support import holding
from tests.support.celery_processes import QUEUE, beat, tick_until, worker
from tests.support.databases import close, fresh_database
from tests.support.holding import Root
from tests.support.maintenance_work import DOWNLOADS, WORK, Work
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.wiring, pytest.mark.broker]

_KILLS = 3
_AT_ONCE = 4
_BACKENDS = "FROM pg_stat_activity WHERE application_name LIKE 'lariba-%' AND datname = current_database()"
_LATER = """
    UPDATE maintenance_tasks SET started_at = started_at - interval '1 minute',
        failed_at = failed_at - interval '1 minute', succeeded_at = succeeded_at - interval '1 minute' WHERE name = %s
"""
_STATES = """
    SELECT *, started_at > coalesce(greatest(succeeded_at, failed_at), '-infinity') AS is_open FROM maintenance_tasks
"""
_LOCKS = """
    SELECT FROM pg_locks JOIN pg_database ON pg_database.oid = database
    WHERE locktype = 'advisory' AND datname = current_database()
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Arena:
    """An installation of this file's own."""

    settings: Settings
    root: Root
    celery: Celery
    chance: random.Random
    cut_off: dict[str, list[int]] = field(default_factory=lambda: {task.name: [] for task in TASKS})
    """The numbers of the runs that the test has killed."""
    dead: set[int] = field(default_factory=set)
    """The pids of their processes."""

    def states(self) -> dict[str, Any]:
        """The rows of maintenance_tasks by the name of their task."""
        with self.root.cursor(row_factory=namedtuple_row) as cursor:
            found: list[Any] = cursor.execute(_STATES).fetchall()
            return {row.name: row for row in found}

    def runs(self, task: Task) -> int:
        """How many have been started."""
        state = self.states().get(task.name)
        return state.runs if state else 0

    def good_runs(self, task: Task) -> int:
        """How many have come to their end; one that was killed is a failure only when the next one begins."""
        state = self.states().get(task.name)
        return state.runs - state.failures - state.is_open if state else 0

    def running(self, task: Task) -> int:
        """The number of the run that is under way, not counting one that was killed; 0 if there is none."""
        state = self.states().get(task.name)
        return state.runs if state and state.is_open and state.runs not in self.cut_off[task.name] else 0


@pytest.fixture(scope="module", name="arena")
def _arena(server_url: str, broker_url: str) -> Iterator[_Arena]:
    seed = secrets.randbelow(1 << 32)
    print(f"chance is random.Random({seed})")  # noqa: T201 - pytest shows it with a failure
    with ExitStack() as stack:
        settings = replace(
            stack.enter_context(fresh_database(server_url)),
            broker_url=broker_url,
            database_pool_size=8,
            download_dir=DOWNLOADS.name,
        )
        migrate(settings)
        root = stack.enter_context(holding.root_of(server_url, settings))
        holding.prepare(root)
        celery = create_celery(settings)
        stack.callback(celery.close)
        celery.control.purge()
        yield _Arena(settings=settings, root=root, celery=celery, chance=random.Random(seed))


def _work_of(task: Task) -> Work:
    assert task.name in WORK, f"give {task.name} work to do: an entry in tests/support/maintenance_work.py"
    return WORK[task.name]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_what_four_do_at_once_without_a_lock_is_done_once(arena: _Arena, task: Task) -> None:
    """As after the loss of the connection that holds the lock."""
    work = _work_of(task)
    work.lay_out(arena.root)
    database = Database(arena.settings.database_url, pool_size=_AT_ONCE, lock_timeout_seconds=10)
    owner = Owner(arena.settings.admin_database_url)
    task_context = TaskContext(database=database, owner=owner, settings=arena.settings, now=datetime.now(UTC))

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        runs = [pool.submit(_run_as_beat_repeats_it, task, task_context) for _ in range(_AT_ONCE)]
    close(database)
    for run in runs:
        run.result()

    assert work.left(arena.root) == 0
    work.check(arena.root)


def _run_as_beat_repeats_it(task: Task, task_context: TaskContext) -> None:
    """A machine that stands still for the two seconds that a connection may take costs a run; the next one comes."""
    for _ in range(5):
        with suppress(StorageUnavailable):
            task.work(task_context)
            return
    task.work(task_context)


@pytest.mark.slow
def test_whatever_is_killed_and_however_many_ring_the_state_is_exact(arena: _Arena, checkout: Path) -> None:
    for task in TASKS:
        _work_of(task).lay_out(arena.root)
    # Without the good runs before: of the other test of this file, if that came first.
    others = {task.name: arena.runs(task) - len(arena.cut_off[task.name]) for task in TASKS}
    # So a kill that comes too late for the middle of a task still hits it, and it is known how many runs were cut off:
    # all that are started meanwhile, for none can succeed.
    with holding.holding(arena.root):
        for tasks in _in_two(arena.chance):
            # Celery notices a killed process within five seconds; meanwhile there are others.
            with worker(arena.settings, checkout, processes=6) as process:
                for task in tasks:
                    _kill_again_and_again(arena, task)
                # The last task of each half has lost its whole worker, with all that it held.
                _cut_off(arena, tasks[-1], lambda: os.killpg(process.pid, SIGKILL))
        cut_off = {task.name: arena.runs(task) - others[task.name] for task in TASKS}
    began = arena.root.execute("SELECT now()").fetchone()
    assert began is not None
    before = {task.name: arena.good_runs(task) for task in TASKS}

    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(worker(arena.settings, checkout, processes=2))
            stack.enter_context(beat(arena.settings, checkout))
        wait_until(lambda: all(_is_done(arena, task) for task in TASKS), 60)
    wait_until(lambda: not arena.root.execute(f"SELECT {_BACKENDS}").fetchall())

    for task in TASKS:
        _work_of(task).check(arena.root)
        assert cut_off[task.name] >= _KILLS
        _check_what_is_recorded(arena, task, began[0], before[task.name], cut_off[task.name])
    assert arena.root.execute(_LOCKS).fetchall() == []


@pytest.mark.slow
def test_a_tick_whose_process_is_killed_is_redelivered(arena: _Arena, checkout: Path) -> None:
    """Without another tick: beat's next one may be ten seconds away."""
    canary = next(task for task in TASKS if task.name == "canary")
    arena.celery.control.purge()
    with worker(arena.settings, checkout):
        with holding.holding(arena.root):
            arena.root.execute(_LATER, (canary.name,))
            arena.celery.send_task(canary.celery_name, queue=QUEUE)
            first = wait_until(lambda: arena.running(canary))
            os.kill(wait_until(lambda: _runner(arena, canary)), SIGKILL)
            holding.end_orphans(arena.root)

            wait_until(lambda: arena.running(canary) > first)
        wait_until(lambda: not arena.running(canary))
    # The other test of this file counts the failures of both, whichever comes first.
    arena.cut_off[canary.name].append(first)


def _in_two(chance: random.Random) -> list[list[Task]]:
    tasks = chance.sample(TASKS, len(TASKS))
    return [tasks[::2], tasks[1::2]]


def _kill_again_and_again(arena: _Arena, task: Task) -> None:
    for _ in range(_KILLS):
        _cut_off(arena, task, lambda: _kill(arena, task))


def _kill(arena: _Arena, task: Task) -> None:
    """SIGKILL for the process that runs the task, as the kernel does when memory is short."""
    arena.dead.add(pid := wait_until(lambda: _runner(arena, task)))
    os.kill(pid, SIGKILL)


def _runner(arena: _Arena, task: Task) -> int:
    """The pid of the process that runs the task; 0 as long as another one is just finding that it is not due."""
    (active,) = (arena.celery.control.inspect(timeout=5, limit=1).active() or {"": []}).values()
    pids = {each["worker_pid"] for each in active if each["name"] == task.celery_name} - arena.dead
    return pids.pop() if len(pids) == 1 else 0


def _cut_off(arena: _Arena, task: Task, kill: Callable[[], None]) -> None:
    """Send ticks until a run has come to a random point of what is left to do, and kill it there."""
    work = _work_of(task)
    point = arena.chance.randint(0, work.left(arena.root))
    arena.root.execute(_LATER, (task.name,))

    def has_come_to_it() -> bool:
        for other in TASKS:
            # A tick of before that Celery has delivered again: held, its run would keep all others waiting.
            if other is not task and (number := arena.running(other)):
                arena.cut_off[other.name].append(number)
                _kill(arena, other)
                holding.end_orphans(arena.root)
        return arena.running(task) > 0 and work.left(arena.root) <= point

    tick_until(arena.celery, [task.celery_name], has_come_to_it)

    def is_over() -> bool:
        # A tick that was waiting, or that Celery delivers again, starts another run at once, which would be held too.
        if number := arena.running(task):
            arena.cut_off[task.name].append(number)
            kill()
            holding.end_orphans(arena.root)
        return not arena.root.execute(_LOCKS).fetchall()

    wait_until(is_over)
    arena.celery.control.purge()


def _is_done(arena: _Arena, task: Task) -> bool:
    state = arena.states()[task.name]
    return not state.is_open and state.succeeded_at is not None and _work_of(task).left(arena.root) == 0


def _check_what_is_recorded(arena: _Arena, task: Task, began: datetime, before: int, cut_off: int) -> None:
    """The `cut_off` runs are failures and no others are; good runs came no more often than they are wanted.

    `before` of them have come before it `began`: the other test of this file has one.
    """
    state = arena.states()[task.name]
    assert (state.failures, state.failures_in_a_row) == (cut_off, 0), task.name
    assert state.error.startswith("cut off"), task.name
    good = arena.good_runs(task) - before
    assert good >= 1, task.name
    if (
        task.name != BUILD_EVENT_SEGMENTS
    ):  # it has more to do, at each tick, as long as a default partition is being moved
        assert good <= 1 + (state.started_at - began) / (0.9 * task.every), task.name
