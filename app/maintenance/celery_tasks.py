"""The Celery tasks: each runs its task of the schedule if it is due."""

import time
from collections.abc import Callable
from typing import Final

from celery import Celery
from sqlalchemy.exc import SQLAlchemyError

from app.config import Settings
from app.database.cell import WrongCellError
from app.database.clock import read_clocks
from app.database.engine import Database
from app.database.migrate import SchemaBehindError
from app.database.owner import Owner
from app.database.row_security import RowSecurityMissingError
from app.errors import StorageUnavailable
from app.maintenance.readiness import Readiness
from app.maintenance.schedule import TASKS
from app.maintenance.scheduler import run_if_due
from app.maintenance.task import Task, TaskContext

# After its own limit a run gets this long until Celery interrupts it, and until Celery kills it.
_SOFT_SECONDS: Final = 20
_HARD_SECONDS: Final = 35
# What stops all tasks alike. The next tick tries again.
_OBSTACLES: Final = (StorageUnavailable, SchemaBehindError, WrongCellError, RowSecurityMissingError, SQLAlchemyError)


def register(celery: Celery, database: Database, settings: Settings) -> None:
    owner = Owner(settings.admin_database_url)
    readiness = Readiness(database, cell=settings.cell, needs_row_security=settings.allow_rls_bypass == "off")

    def run(task: Task) -> None:
        ends_at = time.monotonic() + task.seconds
        try:
            readiness.require()
            now, own_now = read_clocks(database)
            context = TaskContext(
                database=database, owner=owner, settings=settings, now=now, own_now=own_now, ends_at=ends_at
            )
            run_if_due(task, context)
        except _OBSTACLES as error:
            readiness.report(error)
        else:
            readiness.report(None)

    for task in TASKS:
        _register(celery, task, run)


def _register(celery: Celery, task: Task, run: Callable[[Task], None]) -> None:
    soft, hard = task.seconds + _SOFT_SECONDS, task.seconds + _HARD_SECONDS

    @celery.task(name=task.celery_name, shared=False, soft_time_limit=soft, time_limit=hard)
    def tick() -> None:
        run(task)
