"""What keeps a worker from working: told once, with its cause, and got over by itself."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from celery import Celery

from app.config import Settings
from app.database.engine import Database, conninfo_of
from app.database.migrate import migrate
from app.maintenance.schedule import TASKS
from app.maintenance.tasks import register
from app.telemetry import logs
from tests.support.databases import close, fresh_database
from tests.support.logging_left_alone import logging_left_alone
from tests.support.servers import ENDED

pytestmark = pytest.mark.wiring

Ring = Callable[[Settings], None]
Told = Callable[[], list[dict[str, Any]]]


@pytest.fixture(name="empty")
def _empty(server_url: str) -> Iterator[Settings]:
    with fresh_database(server_url) as settings:
        yield settings


@pytest.fixture(name="ring")
def _ring() -> Iterator[Ring]:
    """Rings each bell twice, in this process."""
    workers: dict[Settings, tuple[Celery, Database]] = {}

    def ring(settings: Settings) -> None:
        if settings not in workers:
            workers[settings] = Celery(), Database(settings.database_url, pool_size=1)
            register(*workers[settings], settings)
        celery, _ = workers[settings]
        for task in TASKS * 2:
            celery.tasks[task.bell]()

    yield ring
    for celery, database in workers.values():
        celery.close()
        close(database)


@pytest.fixture(name="told")
def _told(caplog: pytest.LogCaptureFixture) -> Iterator[Told]:
    """What the log has said of it since the last time."""

    def told() -> list[dict[str, Any]]:
        lines: list[Any] = [record.msg for record in caplog.records if record.name == "app.maintenance.readiness"]
        caplog.clear()
        return lines

    with logging_left_alone():
        logs.configure("INFO")
        yield told


def _runs(settings: Settings) -> int:
    with psycopg.connect(settings.admin_database_url) as owner:
        (runs,) = owner.execute("SELECT coalesce(sum(runs), 0) FROM maintenance_tasks").fetchone() or (0,)
    return int(runs)


def test_a_schema_behind_the_code_is_told_once_and_waited_for(empty: Settings, ring: Ring, told: Told) -> None:
    ring(empty)
    (line,) = told()
    assert line["event"] == "maintenance_suspended"
    assert "flask --app wsgi migrate" in line["reason"]

    migrate(empty)
    ring(empty)
    assert [line["event"] for line in told()] == ["maintenance_resumed"]
    assert _runs(empty) > 0


def test_a_role_that_row_security_does_not_bind_does_not_work_unless_it_is_allowed_to(
    empty: Settings, ring: Ring, told: Told
) -> None:
    migrate(empty)
    owner = replace(empty, database_url=empty.admin_database_url)
    ring(owner)
    (line,) = told()
    assert "LARIBA_ALLOW_RLS_BYPASS" in line["reason"]
    assert _runs(empty) == 0

    ring(replace(owner, allow_rls_bypass="on"))
    assert _runs(empty) > 0


def test_a_database_that_goes_away_is_told_with_its_cause_and_waited_for(
    empty: Settings, ring: Ring, told: Told, server_url: str
) -> None:
    migrate(empty)
    ring(empty)
    runs = _runs(empty)
    with psycopg.connect(server_url, autocommit=True) as root:
        name = conninfo_of(empty.database_url)["dbname"]
        root.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        root.execute(f"SELECT {ENDED} FROM pg_stat_activity WHERE datname = %s", (name,))
        ring(empty)
        root.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    (line,) = told()
    assert "not currently accepting connections" in line["reason"]

    ring(empty)
    assert [line["event"] for line in told()] == ["maintenance_resumed"]
    assert _runs(empty) >= runs
