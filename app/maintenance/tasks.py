"""The doorbells: each names its work and calls one plain function."""

from datetime import UTC, datetime
from typing import Final

from celery import Celery

from app.config import Settings
from app.database import Database
from app.maintenance.idempotency import purge_expired_records
from app.maintenance.partitions import make_event_partitions
from app.maintenance.usage import fold_usage

FOLD_USAGE: Final = "maintenance.fold_usage"
PURGE_IDEMPOTENCY_RECORDS: Final = "maintenance.purge_idempotency_records"
MAKE_EVENT_PARTITIONS: Final = "maintenance.make_event_partitions"


def register(celery: Celery, database: Database, settings: Settings) -> None:
    """Hang the tasks on `celery`."""

    @celery.task(name=FOLD_USAGE, shared=False)
    def fold() -> None:
        fold_usage(database)

    @celery.task(name=PURGE_IDEMPOTENCY_RECORDS, shared=False)
    def purge() -> None:
        purge_expired_records(database, now=datetime.now(UTC))

    @celery.task(name=MAKE_EVENT_PARTITIONS, shared=False)
    def make() -> None:
        make_event_partitions(database, first_day=datetime.now(UTC).date(), days=settings.partitions_ahead_days + 1)
