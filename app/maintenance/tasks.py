"""The doorbells: each runs its task of the schedule, if it is due."""

import time
from datetime import UTC, datetime
from typing import Final

from celery import Celery

from app.config import Settings
from app.database import Database
from app.maintenance.runs import Shift, Task, run_if_due
from app.maintenance.schedule import TASKS
from app.owner import Owner

# A run comes to an end by itself. One that does not is asked to, and then killed.
_SOFT_SECONDS: Final = 20
_HARD_SECONDS: Final = 35


def register(celery: Celery, database: Database, settings: Settings) -> None:
    """Hang a bell for each task on `celery`."""
    owner = Owner(settings.admin_database_url)
    for task in TASKS:
        _hang(celery, task, database, owner, settings)


def _hang(celery: Celery, task: Task, database: Database, owner: Owner, settings: Settings) -> None:
    soft, hard = task.seconds + _SOFT_SECONDS, task.seconds + _HARD_SECONDS

    @celery.task(name=task.bell, shared=False, soft_time_limit=soft, time_limit=hard)
    def ring() -> None:
        ends_at = time.monotonic() + task.seconds
        now = datetime.now(UTC)
        run_if_due(task, Shift(database=database, owner=owner, settings=settings, now=now, ends_at=ends_at))
