"""The Celery app: settings, tasks and the beat schedule. Knows no Flask."""

from typing import Final

from celery import Celery
from celery.signals import setup_logging

from app import logs
from app.config import Settings
from app.database import Database
from app.maintenance import tasks

# A worker process runs one task at a time; the second connection is for the moment in which one is being replaced.
_POOL_SIZE: Final = 2

# Every task is safe to run twice or at once and does a bounded piece of work, so a missed beat is caught up by the
# next one, and an expired message is better dropped than run late beside its successor.
BEAT_SCHEDULE: Final = {
    "fold-usage": {"task": tasks.FOLD_USAGE, "schedule": 5.0, "options": {"expires": 5.0}},
    "purge-idempotency-records": {
        "task": tasks.PURGE_IDEMPOTENCY_RECORDS,
        "schedule": 60.0,
        "options": {"expires": 60.0},
    },
    "make-event-partitions": {
        "task": tasks.MAKE_EVENT_PARTITIONS,
        "schedule": 3600.0,
        "options": {"expires": 3600.0},
    },
}


def create_celery(settings: Settings) -> Celery:
    """The Celery app for `settings`; connects to nothing yet."""
    celery = Celery("lariba", broker=settings.broker_url)
    celery.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_soft_time_limit=60,
        task_time_limit=75,
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
