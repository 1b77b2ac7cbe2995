"""store_events: a group of attempts in, the verdicts that are not "stored" out; one statement, one transaction.

A function, because every wait for PostgreSQL makes a busy web process hand its interpreter to another thread and
queue for it again: barrier, judgement, writing and commit in one exchange carry 40 % more events than the same
statements one by one, pipelined or not (docs/decisions/0006). Old and new code run side by side during a deploy, so a
later change is a new function under a new name.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Whose keys these are and whether they may send, read at the moment of writing: revocation, expiry, disabling,
# archiving and suspension count from the moment they answered. A key is named by its row and by its public id: after a
# restore of the database a row number may belong to another key, and a process that has been running since before
# must not store under it. One row per key in the group, not per event.
_JUDGE_CALLERS = """
    CREATE FUNCTION judge_callers(callers jsonb, received timestamptz)
    RETURNS TABLE (caller integer, source_key_id bigint, source_id bigint, project_id bigint, environment_id bigint,
        workspace_id bigint, refusal text)
    LANGUAGE sql STABLE AS $$
        SELECT c.caller, key.id, source.id, source.project_id, source.environment_id, source.workspace_id,
            CASE
                WHEN key.id IS NULL OR key.revoked_at IS NOT NULL OR key.expires_at <= received
                    THEN 'invalid_source_key'
                WHEN workspace.status <> 'active' THEN 'workspace_suspended'
                WHEN source.disabled_at IS NOT NULL OR source.archived_at IS NOT NULL
                    OR environment.archived_at IS NOT NULL OR project.archived_at IS NOT NULL THEN 'source_disabled'
                WHEN c.source <> source.public_id THEN 'source_mismatch'
                WHEN c.environment <> environment.name THEN 'environment_mismatch'
            END
        FROM jsonb_to_recordset(callers)
            AS c (caller integer, key_row bigint, key_id text, source text, environment text)
        LEFT JOIN source_keys AS key ON key.id = c.key_row AND key.public_id = c.key_id
        LEFT JOIN sources AS source ON source.id = key.source_id
        LEFT JOIN environments AS environment ON environment.id = source.environment_id
        LEFT JOIN projects AS project ON project.id = source.project_id
        LEFT JOIN workspaces AS workspace ON workspace.id = source.workspace_id
    $$
"""
_ITEM = """
    SELECT item.*, decode(item.fingerprint, 'base64') AS print, caller.source_key_id, caller.source_id,
        caller.project_id, caller.environment_id, caller.workspace_id, caller.refusal
    FROM jsonb_to_recordset(items) AS item (
        n integer, caller integer, event_uid uuid, event_id text, idempotency_key text, fingerprint text,
        event_type text, severity text, occurred_at timestamptz, payload jsonb, payload_bytes bigint, receipt text)
    JOIN caller USING (caller)
"""

# 1. Wait until nobody takes a right of these workspaces away. A statement of its own: in READ COMMITTED
#    each statement sees what was committed when it began, and in a volatile function too.
# 2. Write what is new. Claims are inserts into unique keys: the idempotency record, then the ledger's event id, then
#    the event for whoever holds its claims. The rows go in sorted, stage after stage, so that two groups may wait for
#    each other's rows but never in a circle. Nearly always that is all.
# 3. For the rest say why. A claim that was in the way is committed by now, so this statement sees it. What an attempt
#    finds of its own it has committed before, in a commit whose answer was lost (`resumed`): that comes first,
#    whatever has been revoked since. Its record from step 2 is made right for a duplicate and taken back for a
#    refusal: only 2xx answers are recorded. An expired record is removed, and its attempt is to be made again
#    (`raced`), as is one whose obstacle vanished meanwhile; nothing of a raced attempt stays.
_STORE_EVENTS = f"""
    CREATE FUNCTION store_events(callers jsonb, items jsonb, workspaces bigint[], received timestamptz,
        expires timestamptz, lock_wait text)
    RETURNS TABLE (n integer, verdict text, response_status smallint, response_body text)
    LANGUAGE plpgsql AS $$
    #variable_conflict use_column
    DECLARE
        missing integer[];
    BEGIN
        PERFORM set_config('lock_timeout', lock_wait, true);
        PERFORM pg_advisory_xact_lock_shared(workspace) FROM unnest(workspaces) AS workspace;

        WITH caller AS MATERIALIZED (SELECT * FROM judge_callers(callers, received)),
        item AS MATERIALIZED ({_ITEM}),
        recorded AS (
            INSERT INTO idempotency_records (project_id, source_id, idempotency_key, fingerprint, event_uid,
                response_status, response_body, created_at, expires_at)
            SELECT project_id, source_id, idempotency_key, print, event_uid, 201, receipt || 'stored"}}', received,
                expires
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
                received_at)
            SELECT project_id, (array_agg(event_uid))[1], source_id, source_key_id, 'stored', count(*),
                sum(payload_bytes), received
            FROM item WHERE event_uid IN (SELECT event_uid FROM ledgered)
            GROUP BY project_id, source_id, source_key_id
        )
        SELECT array_agg(item.n) FROM item WHERE event_uid NOT IN (SELECT event_uid FROM ledgered) INTO missing;
        IF missing IS NULL THEN
            RETURN;
        END IF;

        RETURN QUERY
        WITH caller AS MATERIALIZED (SELECT * FROM judge_callers(callers, received)),
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
                AND record.idempotency_key = found.idempotency_key
                AND (record.expires_at <= received
                    OR found.is_record_new AND found.verdict NOT IN ('duplicate', 'resumed'))
        ),
        used AS (
            INSERT INTO usage_outbox (project_id, usage_uid, source_id, source_key_id, outcome, events, payload_bytes,
                received_at)
            SELECT project_id, (array_agg(event_uid ORDER BY n))[1], source_id, source_key_id, verdict, count(*),
                sum(payload_bytes), received
            FROM found WHERE verdict IN ('duplicate', 'replayed')
            GROUP BY project_id, source_id, source_key_id, verdict
            -- A group that is repeated after an unanswered commit has the same first attempt: it is counted once.
            ON CONFLICT DO NOTHING
        )
        SELECT n, verdict,
            CASE WHEN verdict = 'duplicate' THEN 200::smallint ELSE coalesce(response_status, 201::smallint) END,
            CASE WHEN verdict = 'duplicate' THEN receipt || 'duplicate"}}'
                ELSE coalesce(response_body, receipt || 'stored"}}') END
        FROM found;
    END $$
"""


def upgrade() -> None:
    # How many events a row stands for: a group leaves one row per key, not one per event.
    op.execute("ALTER TABLE usage_outbox ADD COLUMN events bigint NOT NULL DEFAULT 1")
    op.execute(_JUDGE_CALLERS)
    op.execute(_STORE_EVENTS)
    op.execute("REVOKE ALL ON FUNCTION judge_callers(jsonb, timestamptz) FROM PUBLIC")
    op.execute(
        "REVOKE ALL ON FUNCTION store_events(jsonb, jsonb, bigint[], timestamptz, timestamptz, text) FROM PUBLIC"
    )


def downgrade() -> None:
    op.execute("DROP FUNCTION store_events(jsonb, jsonb, bigint[], timestamptz, timestamptz, text)")
    op.execute("DROP FUNCTION judge_callers(jsonb, timestamptz)")
    op.execute("ALTER TABLE usage_outbox DROP COLUMN events")
