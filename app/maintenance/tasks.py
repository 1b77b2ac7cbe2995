"""The doorbells: each runs its task of the schedule, if it is due."""

from datetime import UTC, datetime

from celery import Celery

from app.config import Settings
from app.database import Database
from app.maintenance.runs import Shift, Task, run_if_due
from app.maintenance.schedule import TASKS


def register(celery: Celery, database: Database, settings: Settings) -> None:
    """Hang a bell for each task on `celery`."""
    for task in TASKS:
        _hang(celery, task, database, settings)


def _hang(celery: Celery, task: Task, database: Database, settings: Settings) -> None:
    @celery.task(name=task.bell, shared=False)
    def ring() -> None:
        run_if_due(task, Shift(database=database, settings=settings, now=datetime.now(UTC)))
