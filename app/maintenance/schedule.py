"""What comes round, and how often. docs/maintenance.md has the same table for operators (a test compares them)."""

from datetime import timedelta
from typing import Final

from app.maintenance.idempotency import purge_expired_records, purge_expired_requests
from app.maintenance.key_life import mark_expired_keys
from app.maintenance.partitions import make_event_partitions
from app.maintenance.runs import Done, Shift, Task
from app.maintenance.usage import fold_usage


def _answer(_: Shift) -> Done:
    """Nothing to do: that it ran at all says that beat rings, the broker carries and a worker consumes."""
    return Done(rows=1)


def _fold_usage(shift: Shift) -> Done:
    return Done(rows=fold_usage(shift.database))


def _purge_idempotency_records(shift: Shift) -> Done:
    return Done(rows=purge_expired_records(shift.database, now=shift.now))


def _purge_management_requests(shift: Shift) -> Done:
    return Done(rows=purge_expired_requests(shift.database, now=shift.now))


def _make_event_partitions(shift: Shift) -> Done:
    days = shift.settings.partitions_ahead_days + 1
    return Done(rows=make_event_partitions(shift.database, first_day=shift.now.date(), days=days))


TASKS: Final = (
    Task(name="canary", every=timedelta(seconds=10), work=_answer),
    Task(name="fold_usage", every=timedelta(seconds=5), work=_fold_usage),
    Task(name="purge_idempotency_records", every=timedelta(minutes=1), work=_purge_idempotency_records),
    Task(name="purge_management_requests", every=timedelta(minutes=1), work=_purge_management_requests),
    Task(name="mark_expired_keys", every=timedelta(minutes=1), work=mark_expired_keys),
    Task(name="make_event_partitions", every=timedelta(hours=1), work=_make_event_partitions),
)
