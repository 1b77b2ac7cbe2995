"""What PostgreSQL knows of the state of an installation, when that is a health issue, and how an operator sees it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import Result
from flask import Flask
from sqlalchemy.orm import Session

from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from app.database.clock import Clocks, read_clocks_in
from app.database.conninfo import conninfo_of
from app.database.engine import Database
from app.database.owner import Owner
from app.factory import create_app
from app.maintenance.schedule import TASKS
from app.maintenance.scheduler import run_if_due
from app.maintenance.task import TaskContext, TaskResult
from app.maintenance.usage import fold_usage
from app.monitoring.health_issues import health_issues_of
from app.monitoring.system_status import SystemStatus, read_system_status
from tests.support.databases import close, copied_database
from tests.support.exporting import add_export
from tests.support.live import live_server
from tests.support.people import Tenant, execute, make_tenant
from tests.support.sending import event_for, send
from tests.support.waiting import wait_until

_DAY = timedelta(days=1)


@pytest.fixture(name="well", scope="module")
def _well(server_url: str, migrated: Settings) -> Iterator[Settings]:
    """A database to be copied: of an installation in which every task has just run."""
    with copied_database(server_url, migrated) as settings:
        database = Database(settings.database_url, pool_size=1)
        for task in TASKS:
            ready = replace(task, work=lambda _: TaskResult(rows=3))
            # A lock that several share is free when PostgreSQL has noticed that the connection before is closed.
            wait_until(lambda ready=ready: run_if_due(ready, _task_context(database, settings)))  # type: ignore[misc]
        close(database)
        yield settings


@pytest.fixture(name="app")
def _app(server_url: str, well: Settings, credentials: Credentials) -> Iterator[Flask]:
    """On a database of its own: what is read here is of no workspace."""
    with copied_database(server_url, well) as settings:
        app = create_app(replace(settings, database_pool_size=5), credentials=credentials)
        yield app
        close(app.extensions[EXTENSION].database)


@pytest.fixture(name="context")
def _context(app: Flask) -> Context:
    context: Context = app.extensions[EXTENSION]
    execute(context, "UPDATE maintenance_tasks SET started_at = now(), succeeded_at = now()")
    return context


@pytest.fixture(name="alice")
def _alice(context: Context) -> Tenant:
    return make_tenant(context)


@pytest.fixture(name="owner")
def _owner(context: Context) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(**conninfo_of(context.settings.admin_database_url), autocommit=True) as connection:
        yield connection


def _now() -> datetime:
    return datetime.now(UTC)


def _task_context(database: Database, settings: Settings) -> TaskContext:
    return TaskContext(database=database, owner=Owner(settings.admin_database_url), settings=settings, now=_now())


def _read(context: Context, *, in_future: timedelta = timedelta()) -> SystemStatus:
    return read_system_status(context.database, read_clocks=_clocks(future=in_future))


def _clocks(*, future: timedelta = timedelta(), skew: timedelta = timedelta()) -> Callable[[Session], Clocks]:
    """PostgreSQL's clock ahead by `future`, the machine's ahead of that by `skew`."""

    def read(session: Session) -> Clocks:
        clocks = read_clocks_in(session)
        return Clocks(clocks.database + future, clocks.own + future + skew)

    return read


def _alerts(context: Context, *, in_future: timedelta = timedelta(), **settings: Any) -> set[str]:
    changed = replace(context.settings, **settings)
    return {issue.alert for issue in health_issues_of(_read(context, in_future=in_future), changed)}


def _partition_of(day: datetime) -> str:
    return f"events_{day:%Y%m%d}"


def _insert_event(context: Context, received_at: datetime) -> None:
    execute(
        context,
        "INSERT INTO events (project_id, received_at, event_uid, workspace_id, environment_id, source_id,"
        " source_key_id, event_id, event_type, severity, occurred_at, payload)"
        " VALUES (1, :at, gen_random_uuid(), 1, 1, 1, 1, 'e', 't', 'info', :at, '{}')",
        at=received_at,
    )


def test_an_installation_that_is_well_has_no_health_issue(context: Context) -> None:
    read = _read(context)

    assert list(health_issues_of(read, context.settings)) == []
    assert (read.partitions, read.default_partition_rows, read.detached_partitions) == (8, 0, 0)
    assert 7 * _DAY <= timedelta(seconds=read.partitions_ahead_seconds) <= 8 * _DAY
    assert {task.name: (task.runs, task.rows_done, task.is_overdue) for task in read.tasks} == {
        task.name: (1, 3, False) for task in TASKS
    }


class TestOutbox:
    def test_it_lags_since_the_oldest_accepted_event_until_that_is_folded(
        self, app: Flask, context: Context, alice: Tenant
    ) -> None:
        send(app.test_client(), alice)

        waiting = _read(context, in_future=timedelta(minutes=10))
        assert waiting.outbox_rows == 1
        assert 600 <= waiting.outbox_lag_seconds < 660
        assert "LaribaUsageOutboxLags" in _alerts(context, in_future=timedelta(minutes=10))
        fold_usage(context.database, is_over=lambda: False)
        assert (_read(context).outbox_rows, _read(context).outbox_lag_seconds) == (0, 0)

    def test_a_refusal_that_bears_the_beginning_of_its_hour_is_no_lag(self, context: Context) -> None:
        execute(
            context,
            "INSERT INTO usage_outbox (project_id, usage_uid, workspace_id, source_id, source_key_id, outcome,"
            " payload_bytes, received_at)"
            " VALUES (1, gen_random_uuid(), 1, 1, 1, 'source_mismatch', 0, now() - interval '59 minutes')",
        )

        assert (_read(context).outbox_rows, _read(context).outbox_lag_seconds) == (1, 0)

    def test_counting_has_an_end(self, app: Flask, context: Context, alice: Tenant) -> None:
        for _ in range(3):
            send(app.test_client(), alice)

        assert read_system_status(context.database, rows_max=2).outbox_rows == 2


def test_expired_records_are_counted_and_only_those(app: Flask, context: Context, alice: Tenant) -> None:
    send(app.test_client(), alice, idempotency_key="k")

    assert _read(context, in_future=timedelta(hours=23)).expired_rows == 0
    late = _read(context, in_future=timedelta(hours=26))
    assert late.expired_rows == 1
    assert 7200 <= late.expired_lag_seconds < 7260
    assert "LaribaExpiredRecordsPileUp" in _alerts(context, in_future=timedelta(hours=26))


class TestPartitions:
    @pytest.mark.parametrize("days", [-400, 400], ids=["long ago", "far ahead"])
    def test_an_event_of_a_day_without_one_is_an_issue(self, context: Context, days: int) -> None:
        _insert_event(context, _now() + days * _DAY)

        assert _read(context).default_partition_rows == 1
        assert _alerts(context) == {"LaribaEventsInDefaultPartition"}

    def test_an_event_of_a_day_in_a_gap_is_counted_and_one_of_any_other_day_is_not(
        self, context: Context, owner: psycopg.Connection[Any]
    ) -> None:
        owner.execute(f"DROP TABLE {_partition_of(_now() + 5 * _DAY)}")
        for days in (0, 4, 5, 6):
            _insert_event(context, _now() + days * _DAY)

        assert _read(context).default_partition_rows == 1

    def test_none_at_all_is_a_gap_too(self, context: Context, owner: psycopg.Connection[Any]) -> None:
        for days in range(8):
            owner.execute(f"DROP TABLE {_partition_of(_now() + days * _DAY)}")
        _insert_event(context, _now())

        read = _read(context)
        assert (read.partitions, read.default_partition_rows, read.partitions_ahead_seconds) == (0, 1, 0)
        assert read.oldest_partition_at is None

    def test_they_run_out_at_the_first_gap(self, context: Context, owner: psycopg.Connection[Any]) -> None:
        owner.execute(f"DROP TABLE {_partition_of(_now() + 2 * _DAY)}")

        assert _DAY <= timedelta(seconds=_read(context).partitions_ahead_seconds) <= 2 * _DAY
        assert _alerts(context) == {"LaribaPartitionsRunOut"}

    def test_one_that_is_older_than_the_policy_is_an_issue_after_two_days(self, context: Context) -> None:
        assert "LaribaRetentionBehind" not in _alerts(context, in_future=2 * _DAY, retention_days=1)
        assert "LaribaRetentionBehind" in _alerts(context, in_future=4 * _DAY, retention_days=1)
        assert "LaribaRetentionBehind" not in _alerts(context, in_future=4 * _DAY, retention_days=None)

    def test_a_detached_one_is_counted(self, context: Context, owner: psycopg.Connection[Any]) -> None:
        owner.execute(f"ALTER TABLE events DETACH PARTITION {_partition_of(_now() + 6 * _DAY)}")

        assert (_read(context).partitions, _read(context).detached_partitions) == (7, 1)


class TestClock:
    @pytest.mark.parametrize("seconds", [-90_000, -61, 61, 34_560_000])
    def test_a_machine_whose_clock_is_off_is_an_issue(self, context: Context, seconds: int) -> None:
        read = read_system_status(context.database, read_clocks=_clocks(skew=timedelta(seconds=seconds)))

        assert abs(read.clock_skew_seconds - seconds) < 1
        assert [issue.alert for issue in health_issues_of(read, context.settings)] == ["LaribaClockSkewed"]

    def test_what_is_read_does_not_depend_on_it(self, context: Context) -> None:
        read = read_system_status(context.database, read_clocks=_clocks(skew=400 * _DAY))

        assert not any(task.is_overdue for task in read.tasks)
        assert 7 * _DAY <= timedelta(seconds=read.partitions_ahead_seconds) <= 8 * _DAY


class TestTasks:
    def test_one_that_fails_again_and_again_is_an_issue_with_its_error(self, context: Context) -> None:
        def fail(_: TaskContext) -> TaskResult:
            raise ValueError("the disk is full")

        task = replace(TASKS[0], work=fail)
        for minutes in range(1, 4):
            task_context = replace(
                _task_context(context.database, context.settings), now=_now() + timedelta(minutes=minutes)
            )
            run_if_due(task, task_context)

        (issue,) = health_issues_of(_read(context), context.settings)
        assert issue.alert == "LaribaTaskFailing"
        assert issue.message == "canary failed 3 times in a row: ValueError: the disk is full"

    def test_one_is_overdue_after_three_intervals_and_five_minutes_at_least(self, context: Context) -> None:
        def overdue(**future: int) -> set[str]:
            return {task.name for task in _read(context, in_future=timedelta(**future)).tasks if task.is_overdue}

        all_tasks = {task.name for task in TASKS}
        hourly = {task.name for task in TASKS if task.every >= timedelta(hours=1)}
        assert overdue(minutes=4) == set()
        assert overdue(minutes=6) == all_tasks - hourly
        assert not {"make_event_partitions"} & overdue(hours=2, minutes=59)
        assert "make_event_partitions" in overdue(hours=3, minutes=1)

    def test_one_that_never_ran_is_overdue(self, context: Context) -> None:
        execute(context, "UPDATE maintenance_tasks SET succeeded_at = NULL WHERE name = 'canary'")

        (issue,) = health_issues_of(_read(context), context.settings)
        assert issue.message == "canary has not succeeded ever"


def test_pending_jobs_are_counted_with_the_age_of_the_oldest(app: Flask, context: Context, alice: Tenant) -> None:
    hour = timedelta(hours=1)
    for state, age in (("queued", hour), ("running", 2 * hour), ("completed", 3 * hour)):
        ended_at = _now() if state == "completed" else None
        add_export(context, alice, state=state, created_at=_now() - age, ended_at=ended_at)

    status = _read(context)
    assert status.pending_jobs == 2
    assert 7_200 <= status.oldest_job_seconds < 7_260
    assert read_system_status(context.database, rows_max=1).pending_jobs == 1
    assert "pending jobs       2" in _status(app).stdout


def test_a_job_that_has_done_nothing_for_an_hour_is_an_issue(context: Context, alice: Tenant) -> None:
    minute, made_at = timedelta(minutes=1), _now() - timedelta(days=1)
    add_export(context, alice, created_at=made_at, state="completed", ended_at=made_at)
    add_export(context, alice, created_at=made_at, state="running", progressed_at=_now() - 50 * minute)
    assert _alerts(context) == set()

    waiting = add_export(context, alice, created_at=_now() - 61 * minute)
    assert _alerts(context) == {"LaribaJobStalls"}
    execute(context, "UPDATE exports SET progressed_at = now() WHERE id = :id", id=waiting)
    assert 3_000 <= _read(context).stalled_job_seconds < 3_060


def test_what_is_read_is_of_all_workspaces(app: Flask, context: Context) -> None:
    for tenant in (make_tenant(context), make_tenant(context)):
        send(app.test_client(), tenant, event_for(tenant))

    assert _read(context).outbox_rows == 2


class TestStatus:
    def test_of_an_installation_that_is_well_it_shows_tables_and_exits_with_0(
        self, app: Flask, context: Context
    ) -> None:
        result = _status(app)

        assert (result.exit_code, result.stderr) == (0, "")
        assert "usage outbox       0 rows" in result.stdout
        lines = [line.split() for line in result.stdout.splitlines()]
        assert {line[0] for line in lines if line} >= {task.name for task in TASKS}
        assert f"wanted: {context.settings.partitions_ahead_days}" in result.stdout

    def test_each_issue_is_named_and_the_exit_status_is_1(
        self, app: Flask, context: Context, owner: psycopg.Connection[Any]
    ) -> None:
        _insert_event(context, _now() - 400 * _DAY)
        execute(
            context, "UPDATE maintenance_tasks SET failures_in_a_row = 3, error = 'disk full' WHERE name = 'canary'"
        )

        result = _status(app)

        assert result.exit_code == 1
        assert result.stderr.splitlines() == [
            "LaribaTaskFailing: canary failed 3 times in a row: disk full",
            "LaribaEventsInDefaultPartition: events of days without a partition are in events_default",
        ]

    def test_a_script_gets_one_json_object(self, app: Flask, context: Context) -> None:
        _insert_event(context, _now() - 400 * _DAY)

        result = _status(app, "--json")

        document = json.loads(result.stdout)
        assert result.exit_code == 1
        assert [issue["alert"] for issue in document["troubles"]] == ["LaribaEventsInDefaultPartition"]
        assert document["upkeep"]["default_partition_rows"] == 1
        assert datetime.fromisoformat(document["upkeep"]["tasks"][0]["succeeded_at"]).tzinfo is not None

    @pytest.mark.parametrize("options", [(), ("--json",)])
    def test_a_database_that_is_away_is_one_line(
        self, context: Context, credentials: Credentials, options: tuple[str, ...]
    ) -> None:
        away = replace(context.settings, database_url="postgresql://lariba@127.0.0.1:1/lariba")

        result = _status(create_app(away, credentials=credentials), *options)

        assert result.exit_code == 1
        (line,) = result.output.splitlines()
        assert "LaribaDatabaseAway" in line

    def test_what_processes_of_this_machine_count_is_shown_if_they_share_a_folder(
        self, context: Context, credentials: Credentials, checkout: Path, tmp_path: Path
    ) -> None:
        shared = replace(context.settings, metrics_dir=str(tmp_path / "metrics"))
        app = create_app(shared, credentials=credentials)
        assert "lariba_requests_total" not in _status(app).stdout

        with live_server(shared, checkout) as server:
            wait_until(lambda: server.request("GET", "/healthz").status == 200)

        assert "lariba_requests_total" in _status(app).stdout
        close(app.extensions[EXTENSION].database)


def _status(app: Flask, *options: str) -> Result:
    return app.test_cli_runner().invoke(args=["status", *options])
