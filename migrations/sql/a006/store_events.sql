-- Stores a group of events in one transaction: barrier, judgement, claims, rows and answers in one exchange with the
-- web process (docs/decisions/0001, 0003, 0006). Returns a row for each event that was not simply stored.
--
--     callers     [{caller, key_row, key_id, barrier, source, environment}], one for each key and claimed source
--     items       [{n, caller, event_uid, event_id, idempotency_key, fingerprint, ...}], one for each event; judge_items
--                 in policies.sql names the fields
--     workspaces  the numbers of the workspaces' advisory locks, sorted (app/database/advisory_locks.py)
--     ttl         how long an idempotency record is valid
--     lock_wait   how long to wait for a lock, such as '900ms'
--     waits       false: an event of a workspace whose barrier is not free gets the verdict `held` and is not stored
--
-- Verdicts: `marked` (stored; its timestamp is far from its receipt), `resumed` (stored before by this very attempt),
-- `duplicate`, `replayed`, `raced` (an obstacle vanished; make the attempt again), `held`, or the code of a refusal.
--
-- It runs as the tables' owner, to whom row security does not apply: a group holds keys of many workspaces, and each
-- event is written with the workspace of its own key, read in the same statement.
--
-- plpgsql and not sql: each statement of a volatile function has a snapshot of its own. So the statement behind the
-- barrier sees what was committed under it, and the one behind the claims sees the claims that were in the way.
CREATE OR REPLACE FUNCTION store_events(callers jsonb, items jsonb, workspaces bigint[], ttl interval, lock_wait text,
    waits boolean)
RETURNS TABLE (n integer, verdict text, response_status smallint, response_body text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    held bigint[];
    missing integer[];
    marked integer[];
    received timestamptz;
BEGIN
    -- 1. The barrier: a shared advisory lock on each workspace until the commit. A change that revokes a right holds it
    --    exclusively. By number and not as a query on the workspaces' rows: this function runs where the rows are.
    PERFORM set_config('lock_timeout', lock_wait, true);
    IF waits THEN
        PERFORM pg_advisory_xact_lock_shared(workspace) FROM unnest(workspaces) AS workspace;
    ELSE
        SELECT array_agg(workspace) FROM unnest(workspaces) AS workspace
        WHERE NOT pg_try_advisory_xact_lock_shared(workspace) INTO held;
    END IF;

    -- 2. The moment of receipt, one for the group, read behind the barrier: it is later than every revocation and
    --    expiry that was committed under the barrier, whatever the clock of the calling process says.
    received := clock_timestamp();

    -- 3. Claim and write what is new. A claim is an insert under a unique key: pk_idempotency_records, then
    --    pk_event_ledger. An insert waits for an unfinished transaction that holds the same key, up to lock_wait. The
    --    rows are sorted within each stage, so that groups can wait for each other, but not in a circle. An event is
    --    inserted if both its claims are its own; events has no unique key but that of its uid.
    WITH item AS MATERIALIZED (SELECT * FROM judge_items(callers, items, received, held)),
    writable AS NOT MATERIALIZED (SELECT * FROM item WHERE refusal IS NULL AND far IS DISTINCT FROM 'refuse'),
    recorded AS (
        INSERT INTO idempotency_records (project_id, source_id, workspace_id, idempotency_key, fingerprint, event_uid,
            response_status, response_body, created_at, expires_at)
        SELECT project_id, source_id, workspace_id, idempotency_key, fingerprint, event_uid,
            201, receipt || 'stored"}', received, received + ttl
        FROM writable WHERE idempotency_key IS NOT NULL
        ORDER BY project_id, source_id, idempotency_key, n
        ON CONFLICT DO NOTHING
        RETURNING event_uid
    ),
    ledgered AS (
        INSERT INTO event_ledger (project_id, source_id, workspace_id, event_id, event_uid, fingerprint, received_at)
        SELECT project_id, source_id, workspace_id, event_id, event_uid, fingerprint, received
        FROM writable WHERE idempotency_key IS NULL OR event_uid IN (SELECT event_uid FROM recorded)
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
        INSERT INTO usage_outbox (project_id, usage_uid, workspace_id, source_id, source_key_id, outcome, events,
            payload_bytes, received_at, addresses)
        SELECT project_id, (array_agg(event_uid))[1], workspace_id, source_id, source_key_id, 'stored', count(*),
            sum(payload_bytes), received, (array_agg(DISTINCT address) FILTER (WHERE address IS NOT NULL))[1:20]
        FROM item WHERE event_uid IN (SELECT event_uid FROM ledgered)
        GROUP BY project_id, workspace_id, source_id, source_key_id
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

    -- 4. Say of the others why. The claim that was in the way is committed by now, so this statement sees it: one
    --    look-up by each primary key. What an attempt finds of its own was committed by itself, in a commit whose
    --    answer was lost (`resumed`); that is asked first, because nothing revoked since undoes it.
    RETURN QUERY
    WITH item AS MATERIALIZED (SELECT * FROM judge_items(callers, items, received, held) WHERE n = ANY (missing)),
    found AS MATERIALIZED (
        SELECT item.*, record.response_status, record.response_body,
            record.event_uid = item.event_uid AND record.response_status = 201 AS is_record_new,
            CASE
                WHEN ledger.event_uid = item.event_uid THEN 'resumed'
                WHEN record.event_uid = item.event_uid AND record.response_status = 200 THEN 'resumed'
                WHEN item.refusal IS NOT NULL THEN item.refusal
                WHEN record.event_uid <> item.event_uid AND record.fingerprint = item.fingerprint THEN 'replayed'
                WHEN record.event_uid <> item.event_uid THEN 'idempotency_key_reused'
                WHEN item.far = 'refuse' AND ledger.event_uid IS NULL THEN 'timestamp_out_of_range'
                WHEN item.idempotency_key IS NOT NULL AND record.event_uid IS NULL
                    AND item.far IS DISTINCT FROM 'refuse' THEN 'raced'
                WHEN ledger.fingerprint = item.fingerprint THEN 'duplicate'
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
    -- 5. Make the record of step 3 agree with the verdict: a duplicate is answered 200; a refusal and a raced attempt
    --    leave no record. An expired record is deleted, and its attempt is `raced`.
    corrected AS (
        UPDATE idempotency_records AS record
        SET response_status = 200, response_body = found.receipt || 'duplicate"}'
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
    -- 6. Count duplicates and replays, each attempt once (docs/decisions/0010). The row of an attempt is named by the
    --    first attempt of the first group that it was in (`counted_under`, or this group's first). The insert waits for
    --    a first try that is still running, and adds the attempts that its row does not hold. Sorted, as in step 3.
    used AS (
        INSERT INTO usage_outbox AS outbox (project_id, usage_uid, workspace_id, source_id, source_key_id, outcome,
            events, payload_bytes, received_at, addresses, attempts)
        SELECT project_id, md5(concat(first, source_key_id, verdict))::uuid AS usage_uid, workspace_id, source_id,
            source_key_id, verdict, count(*), sum(payload_bytes), received,
            (array_agg(DISTINCT address) FILTER (WHERE address IS NOT NULL))[1:20], array_agg(event_uid)
        FROM (SELECT *, coalesce(counted_under, (items->0->>'event_uid')::uuid) AS first FROM found) AS found
        WHERE verdict IN ('duplicate', 'replayed')
        GROUP BY project_id, first, workspace_id, source_id, source_key_id, verdict
        ORDER BY project_id, usage_uid
        ON CONFLICT (project_id, usage_uid) DO UPDATE SET
            attempts = outbox.attempts || ARRAY(
                SELECT unnest(excluded.attempts) EXCEPT SELECT unnest(outbox.attempts)),
            events = cardinality(outbox.attempts || ARRAY(
                SELECT unnest(excluded.attempts) EXCEPT SELECT unnest(outbox.attempts)))
    )
    SELECT n, verdict,
        CASE WHEN verdict = 'duplicate' THEN 200::smallint ELSE coalesce(response_status, 201::smallint) END,
        CASE verdict
            WHEN 'duplicate' THEN receipt || 'duplicate"}'
            WHEN 'timestamp_out_of_range' THEN extract(epoch FROM occurred_at - received) || ' '
                || extract(epoch FROM CASE WHEN occurred_at > received THEN latest ELSE earliest END - received)
            ELSE coalesce(response_body, receipt || 'stored"}')
        END
    FROM found;
END $$;
REVOKE ALL ON FUNCTION store_events(jsonb, jsonb, bigint[], interval, text, boolean) FROM PUBLIC;
