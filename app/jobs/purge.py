"""Removes what is left of jobs: files of exports that have expired, were deleted, have failed or have no row, and rows.

Which files are kept follows from the rows alone, so nothing needs to be marked: a file that a killed run, a failed one
or a restored database has left goes in the same way.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import text

from app.database.engine import Database, TenantScope
from app.events.exports.files import export_of
from app.jobs.turns import Kind
from app.maintenance.purge import BATCH_ROWS, purge, purge_of
from app.maintenance.task import StopCheck, TaskResult, never
from app.models.job import JobState

ENDED_KEPT_FOR: Final = timedelta(days=30)
"""How long a job is shown after its end: its file is gone for three weeks by then."""
_BATCH_FILES: Final = 500
_KEPT: Final = text("""
    SELECT public_id, state FROM exports
    WHERE public_id = ANY(:public_ids) AND archived_at IS NULL AND (ended_at IS NULL OR expires_at > :now)
""")


def purge_export_files(database: Database, folder: Path, *, now: datetime, is_over: StopCheck) -> TaskResult:
    """Remove them. Other files in the folder are left alone. Raises OSError if it cannot be used."""
    removed = 0
    files = [(path, public_id) for path in folder.iterdir() if (public_id := export_of(path)) is not None]
    for begin in range(0, len(files), _BATCH_FILES):
        if is_over():
            return TaskResult(removed, has_more=True)
        batch = files[begin : begin + _BATCH_FILES]
        # The look-up comes after the listing, so an export that was asked for meanwhile is not taken for none.
        kept = _kept(database, [public_id for _, public_id in batch], now)
        for path, public_id in batch:
            # The part of a complete file was made by a turn that came too late.
            if public_id not in kept or (path.suffix == ".part" and kept[public_id] == JobState.COMPLETED):
                path.unlink(missing_ok=True)
                removed += 1
    return TaskResult(removed)


def _kept(database: Database, public_ids: list[str], now: datetime) -> dict[str, str]:
    """The states of those exports that have a right to their files."""
    with database.transaction(TenantScope.ALL) as session:
        found = session.execute(_KEPT, {"public_ids": public_ids, "now": now})
        return {row.public_id: row.state for row in found}


def purge_ended_jobs(
    database: Database,
    kinds: Sequence[Kind],
    *,
    now: datetime,
    is_over: StopCheck = never,
    batch_rows: int = BATCH_ROWS,
) -> TaskResult:
    """Delete the rows of jobs that ended so long ago. Nothing refers to them but texts: event ids and audit entries."""
    until, deleted = now - ENDED_KEPT_FOR, 0
    for kind in kinds:
        result = purge(database, purge_of(kind.model.__tablename__, "ended_at"), until, batch_rows, is_over)
        deleted += result.rows
        if result.has_more:
            return TaskResult(deleted, has_more=True)
    return TaskResult(deleted)
