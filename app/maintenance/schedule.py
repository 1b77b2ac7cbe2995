"""What comes round, and how often. docs/maintenance.md has the same table for operators (a test compares them)."""

from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from app.maintenance.default_partition import settle_stranded_events
from app.maintenance.key_life import mark_expired_keys
from app.maintenance.partitions import make_event_partitions
from app.maintenance.purge import purge_expired_records, purge_expired_requests, purge_old_event_ids
from app.maintenance.retention import delete_expired_events, drop_old_partitions
from app.maintenance.runs import Done, Shift, Task
from app.maintenance.search_indexes import index_closed_partitions
from app.maintenance.usage import REPEATABLE, fold_usage

# An index or an export of a day of a hundred million events takes minutes, and cannot be taken up in its middle.
_LONG_SECONDS: Final = 1_800


def _answer(_: Shift) -> Done:
    """Nothing to do: that it ran at all says that beat rings, the broker carries and a worker consumes."""
    return Done(rows=1)


def _fold_usage(shift: Shift) -> Done:
    return fold_usage(shift.database, repeatable=REPEATABLE, is_over=shift.is_over)


def _purge_idempotency_records(shift: Shift) -> Done:
    return purge_expired_records(shift.database, now=shift.deletes_by(), is_over=shift.is_over)


def _purge_management_requests(shift: Shift) -> Done:
    return purge_expired_requests(shift.database, now=shift.deletes_by(), is_over=shift.is_over)


def _purge_event_ids(shift: Shift) -> Done:
    days = shift.settings.event_id_days
    return purge_old_event_ids(shift.database, now=shift.deletes_by(), days=days, is_over=shift.is_over)


def _mark_expired_keys(shift: Shift) -> Done:
    return mark_expired_keys(shift.database, now=shift.now, is_over=shift.is_over)


def _make_event_partitions(shift: Shift) -> Done:
    days = shift.settings.partitions_ahead_days + 1
    return Done(rows=make_event_partitions(shift.database, first_day=shift.now.date(), days=days))


def _settle_stranded_events(shift: Shift) -> Done:
    done = settle_stranded_events(shift.owner, is_over=shift.is_over)
    if done.rows and not done.has_more:
        _make_event_partitions(shift)  # none were made beside a default partition that was full
    return done


def _index_closed_partitions(shift: Shift) -> Done:
    return index_closed_partitions(shift.owner, now=shift.now, is_over=shift.is_over)


def _delete_expired_events(shift: Shift) -> Done:
    return delete_expired_events(shift.owner, now=shift.deletes_by(), is_over=shift.is_over)


def _drop_old_partitions(shift: Shift) -> Done:
    settings = shift.settings
    return drop_old_partitions(
        shift.owner,
        now=shift.deletes_by(),
        days=settings.retention_days,
        export_folder=Path(settings.export_dir) if settings.export_dir else None,
        is_over=shift.is_over,
    )


# One after the other: none meets a partition in which another is at work, and however long one takes, of two worker
# processes one is left for what comes round in seconds.
_PARTITIONS: Final[dict[str, Any]] = {"every": timedelta(hours=1), "seconds": _LONG_SECONDS, "turn": "partitions"}

TASKS: Final = (
    Task(name="canary", every=timedelta(seconds=10), work=_answer, is_quiet=True),
    Task(name="fold_usage", every=timedelta(seconds=5), work=_fold_usage),
    Task(name="purge_idempotency_records", every=timedelta(minutes=1), work=_purge_idempotency_records),
    Task(name="purge_management_requests", every=timedelta(minutes=1), work=_purge_management_requests),
    Task(name="purge_event_ids", every=timedelta(minutes=1), work=_purge_event_ids),
    Task(name="mark_expired_keys", every=timedelta(minutes=1), work=_mark_expired_keys),
    Task(name="make_event_partitions", every=timedelta(hours=1), work=_make_event_partitions),
    Task(name="settle_stranded_events", work=_settle_stranded_events, **_PARTITIONS),
    Task(name="delete_expired_events", work=_delete_expired_events, **_PARTITIONS),
    Task(name="drop_old_partitions", work=_drop_old_partitions, **_PARTITIONS),
    Task(name="index_closed_partitions", work=_index_closed_partitions, **_PARTITIONS),
)
