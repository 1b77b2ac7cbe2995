"""A workspace moves under load while the PostgreSQL or the web processes of a cell are killed, again and again."""

import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from app.cells.operations import introduce
from app.config import Settings
from app.database.migrate import migrate
from app.factory import create_app
from local.postgres import EmbeddedPostgres
from local.roles import APP_ROLE, DATABASE, OWNER_ROLE
from tests.support.cells import Cell, minting
from tests.support.databases import SECRET_KEY, close
from tests.support.live import LiveServer, eldest_of_two_workers, live_server
from tests.support.logging_left_alone import logging_left_alone
from tests.support.moving import audit, mover, producing
from tests.support.people import make_tenant

pytestmark = pytest.mark.slow

_NAMES = ("eu1", "us1")
_KILLS = 4
_TRIES = 40


@dataclass(frozen=True, slots=True)
class _Installation:
    """Two cells, each on a PostgreSQL of its own, with two web processes."""

    cells: list[Cell]
    databases: list[EmbeddedPostgres]
    servers: dict[str, LiveServer]

    def kill_postgresql(self, number: int) -> None:
        server = self.databases[number]
        postmaster = psutil.Process(server.pid)
        for process in [postmaster, *postmaster.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        server.kill()
        server.start()

    def kill_web(self, number: int) -> None:
        eldest_of_two_workers(self.servers[_NAMES[number]]).kill()


@pytest.fixture(name="installation")
def _installation(checkout: Path) -> Iterator[_Installation]:
    with ExitStack() as stack, logging_left_alone():
        databases = [stack.enter_context(_postgresql()) for _ in _NAMES]
        cells = [stack.enter_context(_cell(*each)) for each in zip(_NAMES, databases, strict=True)]
        introduce([each.settings for each in cells])
        servers = {each.name: stack.enter_context(live_server(each.settings, checkout, workers=2)) for each in cells}
        yield _Installation(cells, databases, servers)


@contextmanager
def _postgresql() -> Iterator[EmbeddedPostgres]:
    # With fsync, as in production: a killed server must find what it has answered.
    folder = Path(tempfile.mkdtemp(prefix="lariba-moving-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        with EmbeddedPostgres(folder / "pg") as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _cell(name: str, server: EmbeddedPostgres) -> Iterator[Cell]:
    settings = Settings(
        database_url=server.url(APP_ROLE, DATABASE),
        admin_database_url=server.url(OWNER_ROLE, DATABASE),
        broker_url="memory://",
        secret_key=(SECRET_KEY,),
        log_level="CRITICAL",
        database_pool_size=8,
    )
    settings = replace(settings, cells=(name,))
    migrate(settings)
    app = create_app(settings, credentials=minting(name))
    cell = Cell(settings, app)
    yield cell
    close(cell.context.database)
    close(cell.context.reading)


@pytest.mark.parametrize(
    "kill",
    [
        lambda installation: installation.kill_postgresql(0),
        lambda installation: installation.kill_postgresql(1),
        lambda installation: installation.kill_web(0),
        lambda installation: installation.kill_web(1),
    ],
    ids=["PostgreSQL of the old cell", "PostgreSQL of the new cell", "web of the old cell", "web of the new cell"],
)
def test_no_acknowledged_event_is_lost_or_doubled_whoever_is_killed(
    installation: _Installation, checkout: Path, kill: Callable[[_Installation], None]
) -> None:
    chance = random.Random()
    tenant = make_tenant(installation.cells[0].context)
    with producing(installation.servers, tenant) as producers:
        for attempt in range(_TRIES):
            moving = mover(installation.cells, checkout, tenant)
            if attempt < _KILLS:
                with suppress(subprocess.TimeoutExpired):
                    moving.wait(timeout=chance.uniform(0.5, 4.0))
                kill(installation)
            moving.communicate()
            if moving.returncode == 0 and attempt >= _KILLS:
                break
        else:
            raise AssertionError("the move has not come to its end")

    audit(installation.cells, tenant, producers)
