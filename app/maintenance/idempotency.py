"""Purges what Idempotency-Keys stand for, past its time: records of ingest, requests of the management API.

Nobody waits for it: expiry is judged when a record is read.
"""

from datetime import datetime

import structlog
from sqlalchemy import TextClause, text

from app.database import EVERYWHERE, Database

_log = structlog.get_logger()

# Short transactions: a thousand deletes hold their row locks for some milliseconds.
_BATCH_ROWS = 1_000
_BATCHES_MAX = 200

# By ix_idempotency_records_expires_at. SKIP LOCKED: two purges share the work, and a record that a request is just
# overwriting is left alone. A subquery in USING could be run once per row and lock more than its LIMIT; a WITH that
# locks rows is run once.
_RECORDS = text("""
    WITH expired AS (
        SELECT project_id, source_id, idempotency_key FROM idempotency_records
        WHERE expires_at <= :now ORDER BY expires_at LIMIT :rows FOR UPDATE SKIP LOCKED
    )
    DELETE FROM idempotency_records AS record USING expired
    WHERE record.project_id = expired.project_id AND record.source_id = expired.source_id
        AND record.idempotency_key = expired.idempotency_key
""")
# By ix_management_requests_expires_at; in the same way.
_REQUESTS = text("""
    WITH expired AS (
        SELECT workspace_id, actor, idempotency_key FROM management_requests
        WHERE expires_at <= :now ORDER BY expires_at LIMIT :rows FOR UPDATE SKIP LOCKED
    )
    DELETE FROM management_requests AS request USING expired
    WHERE request.workspace_id = expired.workspace_id AND request.actor = expired.actor
        AND request.idempotency_key = expired.idempotency_key
""")


def purge_expired_records(
    database: Database, *, now: datetime, batch_rows: int = _BATCH_ROWS, batches_max: int = _BATCHES_MAX
) -> int:
    """Delete the records that expired before `now`, at most `batch_rows` x `batches_max`; returns how many."""
    purged = _purge(database, _RECORDS, now, batch_rows, batches_max)
    _log.info("idempotency_records_purged", rows=purged)
    return purged


def purge_expired_requests(
    database: Database, *, now: datetime, batch_rows: int = _BATCH_ROWS, batches_max: int = _BATCHES_MAX
) -> int:
    """As purge_expired_records(), for requests of the management API."""
    purged = _purge(database, _REQUESTS, now, batch_rows, batches_max)
    _log.info("management_requests_purged", rows=purged)
    return purged


def _purge(database: Database, statement: TextClause, now: datetime, batch_rows: int, batches_max: int) -> int:
    purged = 0
    for _ in range(batches_max):
        with database.transaction(EVERYWHERE) as session:
            deleted: int = session.execute(statement, {"now": now, "rows": batch_rows}).rowcount  # type: ignore[attr-defined]
        purged += deleted
        if deleted < batch_rows:
            break
    return purged
