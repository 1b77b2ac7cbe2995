"""The doorbells: each runs its task of the schedule, if it is due."""

from datetime import UTC, datetime
from typing import Final

from celery import Celery
from sqlalchemy.exc import SQLAlchemyError

from app.config import Settings
from app.database import Database
from app.errors import StorageUnavailable
from app.maintenance.readiness import Readiness
from app.maintenance.runs import Shift, Task, run_if_due
from app.maintenance.schedule import TASKS
from app.schema import SchemaBehindError, WallMissingError

# What is in the way of all tasks alike. The next ring tries again.
_OBSTACLES: Final = (StorageUnavailable, SchemaBehindError, WallMissingError, SQLAlchemyError)


def register(celery: Celery, database: Database, settings: Settings) -> None:
    """Hang a bell for each task on `celery`."""
    readiness = Readiness(database, is_wall_needed=settings.allow_rls_bypass == "off")
    for task in TASKS:
        _hang(celery, task, readiness, database, settings)


def _hang(celery: Celery, task: Task, readiness: Readiness, database: Database, settings: Settings) -> None:
    @celery.task(name=task.bell, shared=False)
    def ring() -> None:
        try:
            readiness.require()
            run_if_due(task, Shift(database=database, settings=settings, now=datetime.now(UTC)))
        except _OBSTACLES as error:
            readiness.tell(error)
        else:
            readiness.tell(None)
