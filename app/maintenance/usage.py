"""Folds the usage outbox into hourly counts of use and of events, and records when and from where a key was used.

A row leaves the outbox in the transaction that counts it, so it is counted exactly once, however many runs there are
and whatever is killed. Refusals are counted too, but do not count as use of a key.
"""

from datetime import timedelta
from typing import Final

from sqlalchemy import text

from app.database.engine import Database, TenantScope
from app.maintenance.task import StopCheck, TaskResult, in_batches, never

_BATCH_ROWS = 5_000
_ADDRESSES_MAX = 10
"""How many addresses a key keeps."""
REPEATABLE: Final = timedelta(minutes=2)
"""For how long a write with an unanswered commit may be repeated; until then its outbox row prevents a second count. A
web process repeats an attempt until its deadline (1.8 seconds) and a flush of refusals until its oldest count is a
minute old (app/counting/flushed.py), and PostgreSQL ends a statement after 30."""

# Counts are updated in the order of keys, so that two folds never deadlock; SKIP LOCKED lets them share the outbox.
# least and greatest keep moments from moving backwards. A busy key's row is written once per fold and not once per
# event. Addresses are merged within SET, where a fold that waited for another one sees the row which that has left. The
# addresses of one outbox row have one moment, so no more of them are read than a key keeps.
_FOLD = text("""
WITH next AS (
    SELECT project_id, usage_uid FROM usage_outbox
    WHERE outcome = 'stored' OR received_at <= clock_timestamp() - :repeatable
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
events_counted AS (
    INSERT INTO event_hours AS hours (project_id, hour, source_key_id, event_type, severity, workspace_id,
        environment_id, source_id, events)
    SELECT project_id, date_trunc('hour', received_at, 'UTC'), source_key_id, event_type, severity, workspace_id,
        environment_id, source_id, sum(events)
    FROM taken WHERE event_type IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6, 7, 8 ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (project_id, hour, source_key_id, event_type, severity) DO UPDATE SET
        events = hours.events + excluded.events
),
accepted AS (
    SELECT * FROM taken WHERE outcome IN ('stored', 'duplicate', 'replayed')
),
seen AS (
    SELECT source_key_id, jsonb_agg(jsonb_build_object('address', address, 'last_seen_at', at)) AS addresses
    FROM (
        SELECT source_key_id, address, max(received_at) AS at,
            row_number() OVER (PARTITION BY source_key_id ORDER BY max(received_at) DESC, address) AS rank
        FROM accepted, unnest(addresses[1 : :addresses_max]) AS address GROUP BY 1, 2
    ) AS newest
    WHERE rank <= :addresses_max GROUP BY 1
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
    is_over: StopCheck = never,
    batch_rows: int = _BATCH_ROWS,
) -> TaskResult:
    """Fold the outbox in batches; of the last `repeatable` only what was stored."""
    parameters = {"rows": batch_rows, "addresses_max": _ADDRESSES_MAX, "repeatable": repeatable}

    def fold_batch() -> int:
        with database.transaction(TenantScope.ALL) as session:
            folded: int = session.execute(_FOLD, parameters).scalar_one()
        return folded

    return in_batches(fold_batch, batch_rows, is_over)
