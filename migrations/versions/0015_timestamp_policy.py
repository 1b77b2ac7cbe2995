"""Timestamps that are far from their receipt: accepted, marked or refused, as their source says.

store_events_4 is store_events_3 (0012) with one thing more: an event whose `occurred_at` lies outside its source's
bounds around the moment of receipt bears a mark, or is refused. What would be stored now is refused: what was stored
before is answered as it was, however long ago that is.
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

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
        END AS refusal,
        CASE WHEN item.occurred_at NOT BETWEEN caller.earliest AND caller.latest
            THEN caller.timestamp_policy END AS far, caller.earliest, caller.latest
    FROM jsonb_to_recordset(items) AS item (
        n integer, caller integer, event_uid uuid, counted_under uuid, event_id text, idempotency_key text,
        fingerprint text, event_type text, severity text, occurred_at timestamptz, payload jsonb, payload_bytes bigint,
        receipt text, address text, origin text)
    JOIN caller USING (caller)
"""
_CALLERS = """
    SELECT judged.*, source.timestamp_policy,
        received - source.timestamp_behind_seconds_max * interval '1 second' AS earliest,
        received + source.timestamp_ahead_seconds_max * interval '1 second' AS latest
    FROM judge_callers_3(callers, received, held) AS judged LEFT JOIN sources AS source ON source.id = judged.source_id
"""
_ADDRESSES = "(array_agg(DISTINCT address) FILTER (WHERE address IS NOT NULL))[1:20]"
_STORE_EVENTS = f"""
    CREATE FUNCTION store_events_4(callers jsonb, items jsonb, workspaces bigint[], ttl interval, lock_wait text,
        waits boolean)
    RETURNS TABLE (n integer, verdict text, response_status smallint, response_body text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    #variable_conflict use_column
    DECLARE
        held bigint[];
        missing integer[];
        marked integer[];
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

        WITH caller AS MATERIALIZED ({_CALLERS}),
        item AS MATERIALIZED ({_ITEM}),
        recorded AS (
            INSERT INTO idempotency_records (project_id, source_id, idempotency_key, fingerprint, event_uid,
                response_status, response_body, created_at, expires_at)
            SELECT project_id, source_id, idempotency_key, print, event_uid, 201, receipt || 'stored"}}', received,
                received + ttl
            FROM item WHERE refusal IS NULL AND idempotency_key IS NOT NULL AND far IS DISTINCT FROM 'refuse'
            ORDER BY project_id, source_id, idempotency_key, n
            ON CONFLICT DO NOTHING
            RETURNING event_uid
        ),
        ledgered AS (
            INSERT INTO event_ledger (project_id, source_id, event_id, event_uid, fingerprint, received_at)
            SELECT project_id, source_id, event_id, event_uid, print, received
            FROM item
            WHERE refusal IS NULL AND far IS DISTINCT FROM 'refuse'
                AND (idempotency_key IS NULL OR event_uid IN (SELECT event_uid FROM recorded))
            ORDER BY project_id, source_id, event_id, n
            ON CONFLICT DO NOTHING
            RETURNING event_uid
        ),
        written AS (
            INSERT INTO events (project_id, received_at, event_uid, workspace_id, environment_id, source_id,
                source_key_id, event_id, event_type, severity, occurred_at, payload, is_occurred_at_far)
            SELECT project_id, received, event_uid, workspace_id, environment_id, source_id,
                source_key_id, event_id, event_type, severity, coalesce(occurred_at, received), payload,
                far IS NOT DISTINCT FROM 'mark'
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
        SELECT array_agg(n) FILTER (WHERE NOT is_new), array_agg(n) FILTER (WHERE is_new AND far = 'mark')
        FROM (SELECT n, far, event_uid IN (SELECT event_uid FROM ledgered) AS is_new FROM item) AS done
        INTO missing, marked;
        IF marked IS NOT NULL THEN
            RETURN QUERY SELECT n, 'marked', NULL::smallint, NULL FROM unnest(marked) AS n;
        END IF;
        IF missing IS NULL THEN
            RETURN;
        END IF;

        RETURN QUERY
        WITH caller AS MATERIALIZED ({_CALLERS}),
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
                    WHEN item.far = 'refuse' AND ledger.event_uid IS NULL THEN 'timestamp_out_of_range'
                    WHEN item.idempotency_key IS NOT NULL AND record.event_uid IS NULL
                        AND item.far IS DISTINCT FROM 'refuse' THEN 'raced'
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
            SELECT project_id, md5(concat(first, source_key_id, verdict))::uuid AS usage_uid, source_id,
                source_key_id, verdict, count(*), sum(payload_bytes), received, {_ADDRESSES}, array_agg(event_uid)
            FROM (SELECT *, coalesce(counted_under, (items->0->>'event_uid')::uuid) AS first FROM found) AS found
            WHERE verdict IN ('duplicate', 'replayed')
            GROUP BY project_id, first, source_id, source_key_id, verdict
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
            CASE verdict
                WHEN 'duplicate' THEN receipt || 'duplicate"}}'
                WHEN 'timestamp_out_of_range' THEN extract(epoch FROM occurred_at - received) || ' '
                    || extract(epoch FROM CASE WHEN occurred_at > received THEN latest ELSE earliest END - received)
                ELSE coalesce(response_body, receipt || 'stored"}}')
            END
        FROM found;
    END $$
"""

# What 0013 made, with the mark behind it.
_READABLE_EVENTS = """
    CREATE OR REPLACE VIEW readable_events AS
    SELECT project_id, received_at, event_uid, workspace_id, environment_id, source_id, source_key_id, event_id,
        event_type, severity, occurred_at, payload{mark}
    FROM events
    WHERE workspace_id = (SELECT nullif(current_setting('lariba.workspace', true), '')::bigint)
"""
_SIGNATURE = "store_events_4(jsonb, jsonb, bigint[], interval, text, boolean)"


def upgrade() -> None:
    op.execute("""
        ALTER TABLE sources
            ADD COLUMN timestamp_policy text NOT NULL DEFAULT 'mark'
                CONSTRAINT ck_sources_timestamp_policy CHECK (timestamp_policy IN ('accept', 'mark', 'refuse')),
            ADD COLUMN timestamp_ahead_seconds_max integer NOT NULL DEFAULT 86400
                CONSTRAINT ck_sources_timestamp_ahead_seconds_max CHECK (timestamp_ahead_seconds_max > 0),
            ADD COLUMN timestamp_behind_seconds_max integer NOT NULL DEFAULT 2592000
                CONSTRAINT ck_sources_timestamp_behind_seconds_max CHECK (timestamp_behind_seconds_max > 0)""")
    # With a constant default no partition is written anew.
    op.execute("ALTER TABLE events ADD COLUMN is_occurred_at_far boolean NOT NULL DEFAULT false")
    op.execute(_READABLE_EVENTS.format(mark=", is_occurred_at_far"))
    op.execute(_STORE_EVENTS)
    op.execute(f"REVOKE ALL ON FUNCTION {_SIGNATURE} FROM PUBLIC")


def downgrade() -> None:
    op.execute(f"DROP FUNCTION {_SIGNATURE}")
    op.execute("DROP VIEW readable_events")
    op.execute("ALTER TABLE events DROP COLUMN is_occurred_at_far")
    op.execute(_READABLE_EVENTS.format(mark=""))
    op.execute("""
        ALTER TABLE sources DROP COLUMN timestamp_policy, DROP COLUMN timestamp_ahead_seconds_max,
            DROP COLUMN timestamp_behind_seconds_max""")
