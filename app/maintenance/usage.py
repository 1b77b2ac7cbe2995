"""Folds the usage outbox into hourly counts, and says of keys and sources when and from where they were used.

A row leaves the outbox in the transaction that counts it, so it is counted exactly once, whatever is killed and however
often or in parallel this runs. Refusals are counted too, and are no use of a key.
"""

from datetime import timedelta
from typing import Final

from sqlalchemy import text

from app.database.engine import Database, TenantScope
from app.maintenance.runs import Clock, Done, in_batches, never

_BATCH_ROWS = 5_000
_ADDRESSES_MAX = 10
"""How many addresses are kept of a key."""
REPEATABLE: Final = timedelta(minutes=2)
"""For how long an attempt whose commit went unanswered may come again: what it has counted is known by its row in the
outbox. A web process repeats it until its deadline (1.8 seconds), and PostgreSQL ends a statement after 30."""

# Rows come sorted by key, so that two folds update counts in the same order and never deadlock. SKIP LOCKED lets them
# share the outbox. LEAST and GREATEST keep the moments from ever moving the wrong way. A busy key's row is written once
# per fold, not once per event. Its addresses are merged where they are set, so that a fold which had to wait for
# another one merges into what that one has left: there PostgreSQL hands it the row as it is now. The addresses of one
# outbox row have one moment, so no more of them are looked at than are kept.
_FOLD = text("""
WITH next AS (
    SELECT project_id, usage_uid FROM usage_outbox
    WHERE outcome NOT IN ('duplicate', 'replayed') OR received_at <= clock_timestamp() - :repeatable
    LIMIT :rows FOR UPDATE SKIP LOCKED
),
taken AS (
    DELETE FROM usage_outbox USING next
    WHERE usage_outbox.project_id = next.project_id AND usage_outbox.usage_uid = next.usage_uid
    RETURNING usage_outbox.*
),
counted AS (
    INSERT INTO usage_hours AS hours (project_id, source_key_id, hour, outcome, workspace_id, source_id, events,
        payload_bytes)
    SELECT project_id, source_key_id, date_trunc('hour', received_at, 'UTC'), outcome, workspace_id, source_id,
        sum(events), sum(payload_bytes)
    FROM taken GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4
    ON CONFLICT (project_id, source_key_id, hour, outcome) DO UPDATE SET
        events = hours.events + excluded.events, payload_bytes = hours.payload_bytes + excluded.payload_bytes
),
accepted AS (
    SELECT * FROM taken WHERE outcome IN ('stored', 'duplicate', 'replayed')
),
seen AS (
    SELECT source_key_id, jsonb_agg(jsonb_build_object('address', address, 'last_seen_at', at)) AS addresses
    FROM (
        SELECT source_key_id, address, max(received_at) AS at,
            row_number() OVER (PARTITION BY source_key_id ORDER BY max(received_at) DESC, address) AS place
        FROM accepted, unnest(addresses[1 : :addresses_max]) AS address GROUP BY 1, 2
    ) AS newest
    WHERE place <= :addresses_max GROUP BY 1
),
key_used AS (
    UPDATE source_keys AS key SET
        first_used_at = least(key.first_used_at, used.first_at),
        last_used_at = greatest(key.last_used_at, used.last_at),
        last_addresses = CASE WHEN used.addresses IS NULL THEN key.last_addresses ELSE (
            SELECT jsonb_agg(jsonb_build_object('address', address, 'last_seen_at', at) ORDER BY at DESC, address)
            FROM (
                SELECT address, max(last_seen_at) AS at
                FROM jsonb_to_recordset(key.last_addresses || used.addresses)
                    AS entry (address text, last_seen_at timestamptz)
                GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT :addresses_max
            ) AS merged
        ) END
    FROM (
        SELECT id, first_at, last_at, addresses FROM (
            SELECT source_key_id, min(received_at) AS first_at, max(received_at) AS last_at FROM accepted GROUP BY 1
        ) AS uses
        LEFT JOIN seen USING (source_key_id)
        JOIN source_keys ON id = source_key_id ORDER BY id FOR NO KEY UPDATE OF source_keys
    ) AS used
    WHERE key.id = used.id
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


def fold_usage(
    database: Database,
    *,
    repeatable: timedelta = timedelta(0),
    is_over: Clock = never,
    batch_rows: int = _BATCH_ROWS,
) -> Done:
    """Fold what the outbox holds, but for the duplicates and replays of the last `repeatable`."""
    parameters = {"rows": batch_rows, "addresses_max": _ADDRESSES_MAX, "repeatable": repeatable}

    def fold_batch() -> int:
        with database.transaction(TenantScope.ALL) as session:
            folded: int = session.execute(_FOLD, parameters).scalar_one()
        return folded

    return in_batches(fold_batch, batch_rows, is_over)
