"""Which cell a database holds: given once by `migrate`, and asked by each process that starts."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.cells.names import row_ids
from app.config import Settings
from app.context import EXTENSION
from app.database.cell import WrongCellError
from app.database.engine import Database
from app.database.migrate import migrate
from app.factory import create_app
from app.maintenance.readiness import Readiness
from app.rate_limits import namespace_of
from app.telemetry import logs
from app.telemetry.access_log import RequestLine, RequestLines, Sampling
from app.worker import create_celery
from tests.support.cells import Cell, cells
from tests.support.databases import close, copied_database
from tests.support.live import environment_of
from tests.support.logging_left_alone import logging_left_alone
from tests.support.people import execute, make_tenant, rows


@pytest.fixture(name="unnamed")
def _unnamed(server_url: str, migrated: Settings) -> Iterator[Settings]:
    """An installation without a name."""
    with copied_database(server_url, migrated) as settings:
        yield replace(settings, database_pool_size=4)


@pytest.fixture(name="cell", scope="module")
def _cell(server_url: str, migrated: Settings) -> Iterator[Cell]:
    with cells(server_url, migrated, "eu1") as (cell,):
        yield cell


def test_an_installation_gets_a_name_later_and_keeps_its_rows(unnamed: Settings) -> None:
    context = create_app(unnamed).extensions[EXTENSION]
    old = make_tenant(context)
    migrate(replace(unnamed, cells=("eu1",)))
    migrate(replace(unnamed, cells=("eu1",)))

    new = make_tenant(context)
    assert old.workspace_row < row_ids("eu1").start
    assert (new.workspace_row, new.key_row) == (row_ids("eu1").start, row_ids("eu1").start)
    assert [row.name for row in rows(context, "SELECT name FROM cells WHERE is_own")] == ["eu1"]
    close(context.database)


def test_ids_go_on_where_they_were_when_it_is_migrated_again(cell: Cell) -> None:
    first = make_tenant(cell.context).workspace_row
    migrate(cell.settings)

    assert make_tenant(cell.context).workspace_row == first + 1


def test_no_row_gets_the_number_of_the_next_cell(cell: Cell) -> None:
    maxima = rows(
        cell.context,
        "SELECT DISTINCT seqmax FROM pg_sequence JOIN pg_class ON oid = seqrelid WHERE relname LIKE '%_id_seq'",
    )

    assert [row.seqmax for row in maxima] == [row_ids("eu1")[-1]]


@pytest.mark.parametrize("names", [(), ("us1",)])
def test_another_name_is_refused(cell: Cell, names: tuple[str, ...]) -> None:
    other = replace(cell.settings, cells=names)

    with pytest.raises(WrongCellError, match=f"that of the cell eu1, and LARIBA_CELLS says {other.cell or 'nothing'}"):
        migrate(other)
    database = Database(other.database_url, pool_size=1)
    with pytest.raises(WrongCellError):
        Readiness(database, cell=other.cell, needs_row_security=True).require()
    Readiness(database, cell="eu1", needs_row_security=True).require()
    close(database)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "the database is that of the cell eu1, and LARIBA_CELLS says nothing"),
        (("us1",), "the database is that of the cell eu1, and LARIBA_CELLS says us1"),
    ],
)
def test_a_process_for_another_one_ends_its_start_with_one_line(
    cell: Cell, checkout: Path, names: tuple[str, ...], said: str
) -> None:
    environment = environment_of(replace(cell.settings, cells=names))
    command = [sys.executable, "-c", "import wsgi"]

    ended = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stderr) == (1, f"lariba: {said}\n")


@pytest.mark.parametrize("program", ["worker", "beat"])
def test_a_worker_serves_one_cell(cell: Cell, checkout: Path, program: str) -> None:
    environment = environment_of(cell.settings) | {"LARIBA_CELLS": "eu1,us1"}
    command = [sys.executable, "-m", "celery", "-A", "wsgi.celery", program]

    ended = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)

    assert ended.returncode != 0
    assert ended.stderr == "lariba: LARIBA_CELLS names several cells: name the one that this is for\n"


def test_a_name_that_the_database_does_not_have_yet_is_given_by_migrate(unnamed: Settings, checkout: Path) -> None:
    environment = environment_of(replace(unnamed, cells=("eu1",)))

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        whole = [sys.executable, *command]
        return subprocess.run(whole, cwd=checkout, env=environment, capture_output=True, text=True, check=False)

    assert "run `flask --app wsgi migrate`, which gives it this one for good" in run("-c", "import wsgi").stderr
    assert run("-m", "flask", "--app", "wsgi", "migrate").returncode == 0
    assert run("-c", "import wsgi").returncode == 0


def test_cells_share_redis_and_broker_without_meeting(settings: Settings) -> None:
    one, other = (replace(settings, cells=(name,)) for name in ("eu1", "us1"))
    spaces = [namespace_of("secret", each.cell) for each in (settings, one, other)]
    queues = [create_celery(each).conf.task_default_queue for each in (settings, one, other)]

    assert len(set(spaces)) == 3
    assert queues == ["maintenance", "maintenance-eu1", "maintenance-us1"]


def test_metrics_bear_the_name(cell: Cell) -> None:
    page = cell.app.test_client().get("/metrics").text
    samples = [line for line in page.splitlines() if line and not line.startswith("#")]

    assert samples
    assert [line for line in samples if 'cell="eu1"' not in line] == []


def test_lines_bear_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_left_alone():
        logs.configure("INFO", "eu1")
        logging.getLogger("app").warning("of the worker")
        lines = RequestLines(Sampling(), cell="eu1")
        lines.add(
            RequestLine(
                event="e", method="POST", milliseconds=1, path="/", remote_address="", request_id="r", status=201
            )
        )
        lines.flush()

    written = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["cell"] for line in written] == ["eu1", "eu1"]


@pytest.mark.parametrize("change", ["UPDATE cells SET is_own = false", "DELETE FROM cells"])
def test_the_apps_role_changes_no_name(cell: Cell, change: str) -> None:
    with pytest.raises(Exception, match="permission denied"):
        execute(cell.context, change)
