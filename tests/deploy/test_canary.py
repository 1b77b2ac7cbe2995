"""deploy/canary.py: the check that sees whether maintenance goes on."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from app.config import Settings
from app.database.migrate import migrate
from app.maintenance.schedule import TASKS
from deploy import canary
from tests.support.databases import fresh_database
from tests.support.live import environment_of


@pytest.fixture(scope="module", name="installation")
def _installation(server_url: str) -> Iterator[Settings]:
    with fresh_database(server_url) as settings:
        migrate(settings)
        yield settings


def test_no_answer_yet_is_a_complaint(installation: Settings) -> None:
    _last_ran(installation, None)

    assert canary.complaint(installation) == "no worker has answered yet"


def test_a_canary_of_a_moment_ago_is_none(installation: Settings) -> None:
    _last_ran(installation, "10 seconds")

    assert canary.complaint(installation) is None


def test_a_canary_that_stopped_is_a_complaint_with_its_age(installation: Settings) -> None:
    _last_ran(installation, "10 minutes")

    assert re.fullmatch(r"the last canary ran 6\d\d s ago", canary.complaint(installation) or "")


def test_a_database_that_is_away_is_a_complaint(installation: Settings) -> None:
    away = replace(installation, database_url="postgresql://nobody@127.0.0.1:1/nothing")

    assert canary.complaint(away) == "the database does not answer, or holds no schema"


def test_it_is_patient_for_several_runs() -> None:
    every = next(task.every for task in TASKS if task.name == "canary")

    assert timedelta(seconds=canary.AGE_SECONDS_MAX) > 3 * every


@pytest.mark.slow
def test_the_command_says_it_by_its_status_and_one_line(installation: Settings, checkout: Path) -> None:
    _last_ran(installation, "10 seconds")
    assert _run(environment_of(installation), checkout) == (0, "")
    _last_ran(installation, None)
    assert _run(environment_of(installation), checkout) == (1, "lariba: no worker has answered yet\n")
    assert _run({"PATH": os.defpath}, checkout)[1].startswith("lariba: LARIBA_DATABASE_URL is missing")


def _last_ran(settings: Settings, ago: str | None) -> None:
    with psycopg.connect(settings.admin_database_url) as owner:
        owner.execute("DELETE FROM maintenance_tasks")
        if ago is not None:
            owner.execute(
                "INSERT INTO maintenance_tasks (name, started_at, succeeded_at)"
                " VALUES ('canary', now() - %(ago)s::interval, now() - %(ago)s::interval)",
                {"ago": ago},
            )


def _run(environment: dict[str, str], checkout: Path) -> tuple[int, str]:
    ended = subprocess.run(
        [sys.executable, "-m", "deploy.canary"],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stderr
