"""One clock: PostgreSQL's own says when an event was received, and by it keys and records of Idempotency-Keys expire.

store_events_3 is store_events_2 (0004 says how it keeps its promises, 0007 what it judges) with four differences.

The moment of receipt is read once, behind the barrier: one for the whole group. Nothing depends on the clock of the
process that calls, whose clock may be a day off; and a revocation or an expiry that was committed under the barrier
lies before every receipt that comes after it. An attempt that is repeated after an unanswered commit may get another
moment: its event uid decides what became of it, not the moment.

`waits = false` waits for no workspace: attempts of one whose barrier is not free come back as `held`, and nothing of
them is written, while all others are stored.

A key whose expiry the worker has marked (0010) stays expired if PostgreSQL's clock is set back.

Usage of duplicates and replays is a set of attempts, and each attempt names the row that counts it (`counted_under`:
the attempt that came first in the first group it was in). Whatever groups it is repeated in, in whatever order they and
a first try that still runs come to their end, it is in that row once.
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_JUDGE_CALLERS = """
    CREATE FUNCTION judge_callers_3(callers jsonb, judged timestamptz, held bigint[])
    RETURNS TABLE (caller integer, source_key_id bigint, source_id bigint, project_id bigint, environment_id bigint,
        workspace_id bigint, refusal text, allowed_event_types text[], allowed_origins text[], allowed_networks text[])
    LANGUAGE sql STABLE AS $$
        SELECT c.caller, key.id, source.id, source.project_id, source.environment_id, source.workspace_id,
            CASE
                WHEN c.barrier = ANY (held) THEN 'held'
                WHEN key.id IS NULL OR key.revoked_at IS NOT NULL OR key.expires_at <= judged
                        OR key.expires_at = key.expired_at
                    THEN 'invalid_source_key'
                WHEN workspace.status <> 'active' THEN 'workspace_suspended'
                WHEN source.disabled_at IS NOT NULL OR source.archived_at IS NOT NULL
                    OR environment.archived_at IS NOT NULL OR project.archived_at IS NOT NULL THEN 'source_disabled'
                WHEN c.source <> source.public_id THEN 'source_mismatch'
                WHEN c.environment <> environment.name THEN 'environment_mismatch'
            END,
            key.allowed_event_types, key.allowed_origins, key.allowed_networks
        FROM jsonb_to_recordset(callers)
            AS c (caller integer, key_row bigint, key_id text, barrier bigint, source text, environment text)
        LEFT JOIN source_keys AS key ON key.id = c.key_row AND key.public_id = c.key_id
        LEFT JOIN sources AS source ON source.id = key.source_id
        LEFT JOIN environments AS environment ON environment.id = source.environment_id
        LEFT JOIN projects AS project ON project.id = source.project_id
        LEFT JOIN workspaces AS workspace ON workspace.id = source.workspace_id
    $$
"""
_ITEM = """
    SELECT item.*, decode(item.fingerprint, 'base64') AS print, caller.source_key_id, caller.source_id,
        caller.project_id, caller.environment_id, caller.workspace_id,
        CASE
            WHEN caller.refusal IS NOT NULL THEN caller.refusal
            WHEN coalesce(caller.allowed_event_types, caller.allowed_origins, caller.allowed_networks) IS NOT NULL
                THEN coalesce(
                    refuse_place(caller.allowed_origins, caller.allowed_networks, item.address, item.origin),
                    CASE WHEN caller.allowed_event_types IS NOT NULL
                        THEN refuse_event_type(caller.allowed_event_types, item.event_type) END)
        END AS refusal
    FROM jsonb_to_recordset(items) AS item (
        n integer, caller integer, event_uid uuid, counted_under uuid, event_id text, idempotency_key text,
        fingerprint text, event_type text, severity text, occurred_at timestamptz, payload jsonb, payload_bytes bigint,
        receipt text, address text, origin text)
    JOIN caller USING (caller)
"""
_ADDRESSES = "(array_agg(DISTINCT address) FILTER (WHERE address IS NOT NULL))[1:20]"
_STORE_EVENTS = f"""
    CREATE FUNCTION store_events_3(callers jsonb, items jsonb, workspaces bigint[], ttl interval, lock_wait text,
        waits boolean)
    RETURNS TABLE (n integer, verdict text, response_status smallint, response_body text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    #variable_conflict use_column
    DECLARE
        held bigint[];
        missing integer[];
        received timestamptz;
    BEGIN
        PERFORM set_config('lock_timeout', lock_wait, true);
        IF waits THEN
            PERFORM pg_advisory_xact_lock_shared(workspace) FROM unnest(workspaces) AS workspace;
        ELSE
            SELECT array_agg(workspace) FROM unnest(workspaces) AS workspace
            WHERE NOT pg_try_advisory_xact_lock_shared(workspace) INTO held;
        END IF;
        received := clock_timestamp();

        WITH caller AS MATERIALIZED (SELECT * FROM judge_callers_3(callers, received, held)),
        item AS MATERIALIZED ({_ITEM}),
        recorded AS (
            INSERT INTO idempotency_records (project_id, source_id, idempotency_key, fingerprint, event_uid,
                response_status, response_body, created_at, expires_at)
            SELECT project_id, source_id, idempotency_key, print, event_uid, 201, receipt || 'stored"}}', received,
                received + ttl
            FROM item WHERE refusal IS NULL AND idempotency_key IS NOT NULL
            ORDER BY project_id, source_id, idempotency_key, n
            ON CONFLICT DO NOTHING
            RETURNING event_uid
        ),
        ledgered AS (
            INSERT INTO event_ledger (project_id, source_id, event_id, event_uid, fingerprint, received_at)
            SELECT project_id, source_id, event_id, event_uid, print, received
            FROM item
            WHERE refusal IS NULL AND (idempotency_key IS NULL OR event_uid IN (SELECT event_uid FROM recorded))
            ORDER BY project_id, source_id, event_id, n
            ON CONFLICT DO NOTHING
            RETURNING event_uid
        ),
        written AS (
            INSERT INTO events (project_id, received_at, event_uid, workspace_id, environment_id, source_id,
                source_key_id, event_id, event_type, severity, occurred_at, payload)
            SELECT project_id, received, event_uid, workspace_id, environment_id, source_id,
                source_key_id, event_id, event_type, severity, coalesce(occurred_at, received), payload
            FROM item WHERE event_uid IN (SELECT event_uid FROM ledgered)
        ),
        used AS (
            INSERT INTO usage_outbox (project_id, usage_uid, source_id, source_key_id, outcome, events, payload_bytes,
                received_at, addresses)
            SELECT project_id, (array_agg(event_uid))[1], source_id, source_key_id, 'stored', count(*),
                sum(payload_bytes), received, {_ADDRESSES}
            FROM item WHERE event_uid IN (SELECT event_uid FROM ledgered)
            GROUP BY project_id, source_id, source_key_id
        )
        SELECT array_agg(item.n) FROM item WHERE event_uid NOT IN (SELECT event_uid FROM ledgered) INTO missing;
        IF missing IS NULL THEN
            RETURN;
        END IF;

        RETURN QUERY
        WITH caller AS MATERIALIZED (SELECT * FROM judge_callers_3(callers, received, held)),
        item AS MATERIALIZED (SELECT * FROM ({_ITEM}) AS item WHERE n = ANY (missing)),
        found AS MATERIALIZED (
            SELECT item.*, record.response_status, record.response_body,
                record.event_uid = item.event_uid AND record.response_status = 201 AS is_record_new,
                CASE
                    WHEN ledger.event_uid = item.event_uid THEN 'resumed'
                    WHEN record.event_uid = item.event_uid AND record.response_status = 200 THEN 'resumed'
                    WHEN item.refusal IS NOT NULL THEN item.refusal
                    WHEN record.event_uid <> item.event_uid AND record.fingerprint = item.print THEN 'replayed'
                    WHEN record.event_uid <> item.event_uid THEN 'idempotency_key_reused'
                    WHEN item.idempotency_key IS NOT NULL AND record.event_uid IS NULL THEN 'raced'
                    WHEN ledger.fingerprint = item.print THEN 'duplicate'
                    WHEN ledger.fingerprint IS NOT NULL THEN 'duplicate_event'
                    ELSE 'raced'
                END AS verdict
            FROM item
            LEFT JOIN idempotency_records AS record
                ON record.project_id = item.project_id AND record.source_id = item.source_id
                AND record.idempotency_key = item.idempotency_key AND record.expires_at > received
            LEFT JOIN event_ledger AS ledger
                ON ledger.project_id = item.project_id AND ledger.source_id = item.source_id
                AND ledger.event_id = item.event_id
        ),
        corrected AS (
            UPDATE idempotency_records AS record
            SET response_status = 200, response_body = found.receipt || 'duplicate"}}'
            FROM found
            WHERE found.is_record_new AND found.verdict = 'duplicate' AND record.project_id = found.project_id
                AND record.source_id = found.source_id AND record.idempotency_key = found.idempotency_key
        ),
        taken_back AS (
            DELETE FROM idempotency_records AS record USING found
            WHERE record.project_id = found.project_id AND record.source_id = found.source_id
                AND record.idempotency_key = found.idempotency_key AND found.verdict <> 'held'
                AND (record.expires_at <= received
                    OR found.is_record_new AND found.verdict NOT IN ('duplicate', 'resumed'))
        ),
        used AS (
            INSERT INTO usage_outbox AS outbox (project_id, usage_uid, source_id, source_key_id, outcome, events,
                payload_bytes, received_at, addresses, attempts)
            SELECT project_id, md5(concat(counted_under, source_key_id, verdict))::uuid AS usage_uid, source_id,
                source_key_id, verdict, count(*), sum(payload_bytes), received, {_ADDRESSES}, array_agg(event_uid)
            FROM found WHERE verdict IN ('duplicate', 'replayed')
            GROUP BY project_id, counted_under, source_id, source_key_id, verdict
            -- Sorted, so that two groups with the same rows cannot wait for each other in a circle.
            ORDER BY project_id, usage_uid
            -- Waits for a first try that still runs, and adds only what that one has not counted.
            ON CONFLICT (project_id, usage_uid) DO UPDATE SET
                attempts = outbox.attempts || ARRAY(
                    SELECT unnest(excluded.attempts) EXCEPT SELECT unnest(outbox.attempts)),
                events = cardinality(outbox.attempts || ARRAY(
                    SELECT unnest(excluded.attempts) EXCEPT SELECT unnest(outbox.attempts)))
        )
        SELECT n, verdict,
            CASE WHEN verdict = 'duplicate' THEN 200::smallint ELSE coalesce(response_status, 201::smallint) END,
            CASE WHEN verdict = 'duplicate' THEN receipt || 'duplicate"}}'
                ELSE coalesce(response_body, receipt || 'stored"}}') END
        FROM found;
    END $$
"""

_FUNCTIONS = {
    "judge_callers_3(jsonb, timestamptz, bigint[])": _JUDGE_CALLERS,
    "store_events_3(jsonb, jsonb, bigint[], interval, text, boolean)": _STORE_EVENTS,
}


def upgrade() -> None:
    op.execute("ALTER TABLE usage_outbox ADD COLUMN attempts uuid[]")
    # Random bytes: an attempt to compress them costs more than it saves.
    op.execute("ALTER TABLE usage_outbox ALTER COLUMN attempts SET STORAGE EXTERNAL")
    for signature, definition in _FUNCTIONS.items():
        op.execute(definition)
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")


def downgrade() -> None:
    for signature in reversed(_FUNCTIONS):
        op.execute(f"DROP FUNCTION {signature}")
    op.execute("ALTER TABLE usage_outbox DROP COLUMN attempts")
