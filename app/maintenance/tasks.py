"""The doorbells: each runs its task of the schedule, if it is due."""

import time
from collections.abc import Callable
from typing import Final

from celery import Celery
from sqlalchemy.exc import SQLAlchemyError

from app.config import Settings
from app.database.clock import read_clocks
from app.database.engine import Database
from app.database.migrate import SchemaBehindError
from app.database.owner import Owner
from app.database.row_security import RowSecurityMissingError
from app.errors import StorageUnavailable
from app.maintenance.readiness import Readiness
from app.maintenance.runs import Shift, Task, run_if_due
from app.maintenance.schedule import TASKS

# A run comes to an end by itself. One that does not is asked to, and then killed.
_SOFT_SECONDS: Final = 20
_HARD_SECONDS: Final = 35
# What is in the way of all tasks alike. The next ring tries again.
_OBSTACLES: Final = (StorageUnavailable, SchemaBehindError, RowSecurityMissingError, SQLAlchemyError)


def register(celery: Celery, database: Database, settings: Settings) -> None:
    """Hang a bell for each task on `celery`."""
    owner = Owner(settings.admin_database_url)
    readiness = Readiness(database, needs_row_security=settings.allow_rls_bypass == "off")

    def work(task: Task) -> None:
        ends_at = time.monotonic() + task.seconds
        try:
            readiness.require()
            now, own_now = read_clocks(database)
            shift = Shift(database=database, owner=owner, settings=settings, now=now, own_now=own_now, ends_at=ends_at)
            run_if_due(task, shift)
        except _OBSTACLES as error:
            readiness.tell(error)
        else:
            readiness.tell(None)

    for task in TASKS:
        _hang(celery, task, work)


def _hang(celery: Celery, task: Task, work: Callable[[Task], None]) -> None:
    soft, hard = task.seconds + _SOFT_SECONDS, task.seconds + _HARD_SECONDS

    @celery.task(name=task.bell, shared=False, soft_time_limit=soft, time_limit=hard)
    def ring() -> None:
        work(task)
