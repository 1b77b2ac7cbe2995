"""The Celery app: settings, tasks and the beat schedule. Knows no Flask."""

from typing import Any, Final

from celery import Celery
from celery.signals import setup_logging

from app import logs
from app.config import Settings
from app.database import Database
from app.maintenance import tasks
from app.maintenance.runs import Task
from app.maintenance.schedule import TASKS

# A worker process runs one task at a time; the second connection is for the moment in which one is being replaced.
_POOL_SIZE: Final = 2

# A task is rung at least this often, so that one that was missed, failed or has more to do is taken up soon; whether it
# is due is decided when the bell is heard (app/maintenance/runs.py). A bell that was not heard before the next one is
# dropped.
_RING_SECONDS_MAX: Final = 10.0


def _bell(task: Task) -> dict[str, Any]:
    seconds = min(task.every.total_seconds(), _RING_SECONDS_MAX)
    return {"task": task.bell, "schedule": seconds, "options": {"expires": seconds}}


BEAT_SCHEDULE: Final = {task.name: _bell(task) for task in TASKS}


def create_celery(settings: Settings) -> Celery:
    """The Celery app for `settings`; connects to nothing yet."""
    celery = Celery("lariba", broker=settings.broker_url)
    celery.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_default_queue="maintenance",
        worker_prefetch_multiplier=1,
        broker_connection_retry_on_startup=True,
        beat_schedule=BEAT_SCHEDULE,
        timezone="UTC",
        enable_utc=True,
    )
    database = Database(settings.database_url, pool_size=_POOL_SIZE, application_name="lariba-worker")
    tasks.register(celery, database, settings)
    setup_logging.connect(lambda **_: logs.configure(settings.log_level), weak=False)
    return celery
