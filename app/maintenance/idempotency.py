"""Purges idempotency records past their time. Ingest never waits for it: expiry is judged when a record is read."""

from datetime import datetime

import structlog
from sqlalchemy import text

from app.database import Database

_log = structlog.get_logger()

# Short transactions: a thousand deletes hold their row locks for some milliseconds.
_BATCH_ROWS = 1_000
_BATCHES_MAX = 200

# By ix_idempotency_records_expires_at. SKIP LOCKED: two purges share the work, and a record that a request is just
# overwriting is left alone. A subquery in USING could be run once per row and lock more than its LIMIT; a WITH that
# locks rows is run once.
_PURGE = text("""
    WITH expired AS (
        SELECT project_id, source_id, idempotency_key FROM idempotency_records
        WHERE expires_at <= :now ORDER BY expires_at LIMIT :rows FOR UPDATE SKIP LOCKED
    )
    DELETE FROM idempotency_records AS record USING expired
    WHERE record.project_id = expired.project_id AND record.source_id = expired.source_id
        AND record.idempotency_key = expired.idempotency_key
""")


def purge_expired_records(
    database: Database, *, now: datetime, batch_rows: int = _BATCH_ROWS, batches_max: int = _BATCHES_MAX
) -> int:
    """Delete what expired before `now`, at most `batch_rows` x `batches_max` rows; returns how many."""
    purged = 0
    for _ in range(batches_max):
        with database.transaction() as session:
            deleted: int = session.execute(_PURGE, {"now": now, "rows": batch_rows}).rowcount  # type: ignore[attr-defined]
        purged += deleted
        if deleted < batch_rows:
            break
    _log.info("idempotency_records_purged", rows=purged)
    return purged
