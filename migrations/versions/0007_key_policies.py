"""Policies of keys, judged where events are written; and each key's addresses on the usage that it leaves.

store_events_2 is store_events (migration 0004, which says how it keeps its promises) with three things more. An item
is held against its key's event types, origins and networks (docs/decisions/0009). A key's expiry is held against the
database's clock too, read behind the barrier: a key that was rotated without grace must not store what came in before
the rotation and is written after it. And usage says from which addresses it came. store_events stays for code of
before, which knows no policies: give keys their first ones when it is gone.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_JUDGE_CALLERS = """
    CREATE FUNCTION judge_callers_2(callers jsonb, judged timestamptz)
    RETURNS TABLE (caller integer, source_key_id bigint, source_id bigint, project_id bigint, environment_id bigint,
        workspace_id bigint, refusal text, allowed_event_types text[], allowed_origins text[], allowed_networks text[])
    LANGUAGE sql STABLE AS $$
        SELECT c.caller, key.id, source.id, source.project_id, source.environment_id, source.workspace_id,
            CASE
                WHEN key.id IS NULL OR key.revoked_at IS NOT NULL OR key.expires_at <= judged
                    THEN 'invalid_source_key'
                WHEN workspace.status <> 'active' THEN 'workspace_suspended'
                WHEN source.disabled_at IS NOT NULL OR source.archived_at IS NOT NULL
                    OR environment.archived_at IS NOT NULL OR project.archived_at IS NOT NULL THEN 'source_disabled'
                WHEN c.source <> source.public_id THEN 'source_mismatch'
                WHEN c.environment <> environment.name THEN 'environment_mismatch'
            END,
            key.allowed_event_types, key.allowed_origins, key.allowed_networks
        FROM jsonb_to_recordset(callers)
            AS c (caller integer, key_row bigint, key_id text, source text, environment text)
        LEFT JOIN source_keys AS key ON key.id = c.key_row AND key.public_id = c.key_id
        LEFT JOIN sources AS source ON source.id = key.source_id
        LEFT JOIN environments AS environment ON environment.id = source.environment_id
        LEFT JOIN projects AS project ON project.id = source.project_id
        LEFT JOIN workspaces AS workspace ON workspace.id = source.workspace_id
    $$
"""
# Where a request comes from, apart from what it holds: the same for all events of a batch. An address that is not known
# lies in no network. No subselect, so that PostgreSQL writes it into the statement that calls it.
_REFUSE_PLACE = """
    CREATE FUNCTION refuse_place(origins text[], networks text[], address text, origin text) RETURNS text
    LANGUAGE sql IMMUTABLE AS $$
        SELECT CASE
            WHEN networks IS NOT NULL AND (address::inet <<= ANY (networks::inet[])) IS NOT TRUE
                THEN 'address_not_allowed'
            WHEN origins IS NOT NULL AND (origin = ANY (origins)) IS NOT TRUE THEN 'origin_not_allowed'
        END
    $$
"""
# `payment.*` is every type below `payment`, and not `payment` itself.
_REFUSE_EVENT_TYPE = """
    CREATE FUNCTION refuse_event_type(event_types text[], event_type text) RETURNS text
    LANGUAGE sql IMMUTABLE AS $$
        SELECT CASE WHEN NOT EXISTS (
            SELECT FROM unnest(event_types) AS allowed
            WHERE allowed = event_type OR right(allowed, 2) = '.*' AND starts_with(event_type, left(allowed, -1))
        ) THEN 'event_type_not_allowed' END
    $$
"""
# A preflight has no key and belongs to no workspace. Under row level security the index could not be asked: a policy
# comes first, and then the operator, which could tell a stranger's row by an error. So it is asked as the owner.
_IS_ORIGIN_ALLOWED = """
    CREATE FUNCTION is_origin_allowed(origin text) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
        SELECT EXISTS (
            SELECT FROM source_keys
            WHERE allowed_origins IS NOT NULL AND allowed_origins @> ARRAY[origin]
                AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
        )
    $$
"""
# A key without policies pays one look at three values that are NULL.
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
        n integer, caller integer, event_uid uuid, event_id text, idempotency_key text, fingerprint text,
        event_type text, severity text, occurred_at timestamptz, payload jsonb, payload_bytes bigint, receipt text,
        address text, origin text)
    JOIN caller USING (caller)
"""
_ADDRESSES = "(array_agg(DISTINCT address) FILTER (WHERE address IS NOT NULL))[1:20]"
_STORE_EVENTS = f"""
    CREATE FUNCTION store_events_2(callers jsonb, items jsonb, workspaces bigint[], received timestamptz,
        expires timestamptz, lock_wait text)
    RETURNS TABLE (n integer, verdict text, response_status smallint, response_body text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    #variable_conflict use_column
    DECLARE
        missing integer[];
        judged timestamptz;
    BEGIN
        PERFORM set_config('lock_timeout', lock_wait, true);
        PERFORM pg_advisory_xact_lock_shared(workspace) FROM unnest(workspaces) AS workspace;
        judged := greatest(received, clock_timestamp());

        WITH caller AS MATERIALIZED (SELECT * FROM judge_callers_2(callers, judged)),
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
        WITH caller AS MATERIALIZED (SELECT * FROM judge_callers_2(callers, judged)),
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
                received_at, addresses)
            SELECT project_id, (array_agg(event_uid ORDER BY n))[1], source_id, source_key_id, verdict, count(*),
                sum(payload_bytes), received, {_ADDRESSES}
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

_FUNCTIONS = {
    "judge_callers_2(jsonb, timestamptz)": _JUDGE_CALLERS,
    "refuse_place(text[], text[], text, text)": _REFUSE_PLACE,
    "refuse_event_type(text[], text)": _REFUSE_EVENT_TYPE,
    "is_origin_allowed(text)": _IS_ORIGIN_ALLOWED,
    "store_events_2(jsonb, jsonb, bigint[], timestamptz, timestamptz, text)": _STORE_EVENTS,
}


def upgrade() -> None:
    for signature, definition in _FUNCTIONS.items():
        op.execute(definition)
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
    # Every process reads all limits every two seconds; few workspaces have one for their keys.
    op.execute("CREATE INDEX ix_workspaces_keys_limited ON workspaces (id) WHERE key_events_per_second IS NOT NULL")


def downgrade() -> None:
    op.execute("DROP INDEX ix_workspaces_keys_limited")
    for signature in reversed(_FUNCTIONS):
        op.execute(f"DROP FUNCTION {signature}")
