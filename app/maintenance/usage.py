"""Folds the usage outbox into hourly counts, and moves "last used" and "last event" forward.

A row leaves the outbox in the transaction that counts it, so every accepted request is counted exactly once,
whatever is killed and however often or in parallel this runs.
"""

import structlog
from sqlalchemy import text

from app.database import Database

_log = structlog.get_logger()

_BATCH_ROWS = 5_000
_BATCHES_MAX = 100

# Rows come sorted by key, so that two folds update counts in the same order and never deadlock. SKIP LOCKED lets them
# share the outbox. GREATEST keeps the moments from ever moving backward. The row of a key or source is only touched if
# it changes: a busy key's row is written once per fold, not once per event.
_FOLD = text("""
WITH next AS (
    SELECT project_id, usage_uid FROM usage_outbox LIMIT :rows FOR UPDATE SKIP LOCKED
),
taken AS (
    DELETE FROM usage_outbox USING next
    WHERE usage_outbox.project_id = next.project_id AND usage_outbox.usage_uid = next.usage_uid
    RETURNING usage_outbox.*
),
counted AS (
    INSERT INTO usage_hours AS hours (project_id, source_key_id, hour, outcome, source_id, events, payload_bytes)
    SELECT project_id, source_key_id, date_trunc('hour', received_at, 'UTC'), outcome, source_id,
        sum(events), sum(payload_bytes)
    FROM taken GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4
    ON CONFLICT (project_id, source_key_id, hour, outcome) DO UPDATE SET
        events = hours.events + excluded.events, payload_bytes = hours.payload_bytes + excluded.payload_bytes
),
key_used AS (
    UPDATE source_keys SET last_used_at = greatest(last_used_at, used.at)
    FROM (
        SELECT id, at FROM (SELECT source_key_id, max(received_at) AS at FROM taken GROUP BY 1) AS newest
        JOIN source_keys ON id = source_key_id ORDER BY id FOR NO KEY UPDATE OF source_keys
    ) AS used
    WHERE source_keys.id = used.id
),
source_used AS (
    UPDATE sources SET last_event_at = greatest(last_event_at, used.at)
    FROM (
        SELECT id, at FROM (
            SELECT source_id, max(received_at) AS at FROM taken WHERE outcome = 'stored' GROUP BY 1
        ) AS newest
        JOIN sources ON id = source_id ORDER BY id FOR NO KEY UPDATE OF sources
    ) AS used
    WHERE sources.id = used.id
)
SELECT count(*) FROM taken
""")


def fold_usage(database: Database, *, batch_rows: int = _BATCH_ROWS, batches_max: int = _BATCHES_MAX) -> int:
    """Fold at most `batch_rows` x `batches_max` outbox rows; returns how many."""
    folded = 0
    for _ in range(batches_max):
        with database.transaction() as session:
            rows: int = session.execute(_FOLD, {"rows": batch_rows}).scalar_one()
        folded += rows
        if rows < batch_rows:
            break
    _log.info("usage_folded", rows=folded)
    return folded
