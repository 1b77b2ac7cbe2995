"""What keeps a worker from working is logged once, with its cause, and needs no restart."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from celery import Celery

from app.config import Settings
from app.database.conninfo import conninfo_of
from app.database.engine import Database
from app.database.migrate import migrate
from app.maintenance.celery_tasks import register
from app.maintenance.schedule import TASKS
from app.telemetry import logs
from tests.support.databases import close, fresh_database
from tests.support.logging_left_alone import logging_left_alone
from tests.support.servers import ENDED

pytestmark = pytest.mark.wiring

Tick = Callable[[Settings], None]
Logged = Callable[[], list[dict[str, Any]]]


@pytest.fixture(name="empty")
def _empty(server_url: str) -> Iterator[Settings]:
    with fresh_database(server_url) as settings:
        yield settings


@pytest.fixture(name="tick")
def _tick() -> Iterator[Tick]:
    """Sends each task two ticks, in this process."""
    workers: dict[Settings, tuple[Celery, Database]] = {}

    def tick(settings: Settings) -> None:
        if settings not in workers:
            workers[settings] = Celery(), Database(settings.database_url, pool_size=1)
            register(*workers[settings], settings)
        celery, _ = workers[settings]
        for task in TASKS * 2:
            celery.tasks[task.celery_name]()

    yield tick
    for celery, database in workers.values():
        celery.close()
        close(database)


@pytest.fixture(name="logged")
def _logged(caplog: pytest.LogCaptureFixture) -> Iterator[Logged]:
    """The lines since the last call."""

    def logged() -> list[dict[str, Any]]:
        lines: list[Any] = [record.msg for record in caplog.records if record.name == "app.maintenance.readiness"]
        caplog.clear()
        return lines

    with logging_left_alone():
        logs.configure("INFO")
        yield logged


def _runs(settings: Settings) -> int:
    with psycopg.connect(settings.admin_database_url) as owner:
        (runs,) = owner.execute("SELECT coalesce(sum(runs), 0) FROM maintenance_tasks").fetchone() or (0,)
    return int(runs)


def test_a_schema_behind_the_code_is_logged_once_and_waited_for(empty: Settings, tick: Tick, logged: Logged) -> None:
    tick(empty)
    (line,) = logged()
    assert line["event"] == "maintenance_suspended"
    assert "flask --app wsgi migrate" in line["reason"]

    migrate(empty)
    tick(empty)
    assert [line["event"] for line in logged()] == ["maintenance_resumed"]
    assert _runs(empty) > 0


def test_a_role_that_bypasses_row_security_does_not_work_unless_it_is_allowed_to(
    empty: Settings, tick: Tick, logged: Logged
) -> None:
    migrate(empty)
    owner = replace(empty, database_url=empty.admin_database_url)
    tick(owner)
    (line,) = logged()
    assert "LARIBA_ALLOW_RLS_BYPASS" in line["reason"]
    assert _runs(empty) == 0

    tick(replace(owner, allow_rls_bypass="on"))
    assert _runs(empty) > 0


def test_a_database_that_goes_away_is_logged_with_its_cause_and_waited_for(
    empty: Settings, tick: Tick, logged: Logged, server_url: str
) -> None:
    migrate(empty)
    tick(empty)
    runs = _runs(empty)
    with psycopg.connect(server_url, autocommit=True) as root:
        name = conninfo_of(empty.database_url)["dbname"]
        root.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        root.execute(f"SELECT {ENDED} FROM pg_stat_activity WHERE datname = %s", (name,))
        tick(empty)
        root.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    (line,) = logged()
    assert "not currently accepting connections" in line["reason"]

    tick(empty)
    assert [line["event"] for line in logged()] == ["maintenance_resumed"]
    assert _runs(empty) >= runs
