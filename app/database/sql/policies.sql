-- Which events a key may send: judged where they are written (docs/decisions/0003, 0009). A new policy of keys is a
-- column that judge_callers returns and a condition in judge_items; store_events.sql stays as it is.
--
-- CREATE OR REPLACE changes a body, not what a function returns: a migration for a further column begins with
-- DROP FUNCTION judge_callers(jsonb, timestamptz, bigint[]), and has this file behind it. With another parameter it is
-- another function beside the old one, which the migration drops, since only functions here call it; of store_events,
-- which processes call, both stay for a deploy. So every REVOKE and DROP names the signature (docs/decisions/0022).
--
-- The functions in language sql have no SECURITY DEFINER and no SET, so that PostgreSQL writes their bodies into the
-- statement that calls them: store_events calls judge_items in two statements, for the price of a pasted text.


-- Whose keys these are and whether they may send at all, read in the statement that writes. A key is named by its row
-- and its public id: after a restore of the database a row number may belong to another key, and a process that has
-- been running since before the restore must not store under it. One look-up by each primary key for each caller, not
-- for each event. An expiry that the worker has marked (`expired_at`) counts even if the clock was set back since. What
-- has been changed of a key since its workspace left is known in the cell that it lives in.
--     judged  the moment of receipt; the bounds of a timestamp are reckoned from it
--     held    the advisory locks that were not free (store_events, step 1)
CREATE OR REPLACE FUNCTION judge_callers(callers jsonb, judged timestamptz, held bigint[])
RETURNS TABLE (caller integer, source_key_id bigint, source_id bigint, project_id bigint, environment_id bigint,
    workspace_id bigint, refusal text, allowed_event_types text[], allowed_origins text[], allowed_networks text[],
    timestamp_policy text, earliest timestamptz, latest timestamptz)
LANGUAGE sql STABLE AS $$
    SELECT c.caller, key.id, source.id, source.project_id, source.environment_id, source.workspace_id,
        CASE
            WHEN c.barrier = ANY (held) THEN 'held'
            WHEN workspace.home IS NOT NULL THEN 'wrong_cell'
            WHEN key.id IS NULL OR key.revoked_at IS NOT NULL OR key.expires_at <= judged
                OR key.expires_at = key.expired_at THEN 'invalid_source_key'
            WHEN workspace.frozen_at IS NOT NULL THEN 'workspace_moving'
            WHEN workspace.status <> 'active' THEN 'workspace_suspended'
            WHEN source.disabled_at IS NOT NULL OR source.archived_at IS NOT NULL
                OR environment.archived_at IS NOT NULL OR project.archived_at IS NOT NULL THEN 'source_disabled'
            WHEN c.source <> source.public_id THEN 'source_mismatch'
            WHEN c.environment <> environment.name THEN 'environment_mismatch'
        END,
        key.allowed_event_types, key.allowed_origins, key.allowed_networks, source.timestamp_policy,
        judged - source.timestamp_behind_seconds_max * interval '1 second',
        judged + source.timestamp_ahead_seconds_max * interval '1 second'
    FROM jsonb_to_recordset(callers)
        AS c (caller integer, key_row bigint, key_id text, barrier bigint, source text, environment text)
    LEFT JOIN source_keys AS key ON key.id = c.key_row AND key.public_id = c.key_id
    LEFT JOIN sources AS source ON source.id = key.source_id
    LEFT JOIN environments AS environment ON environment.id = source.environment_id
    LEFT JOIN projects AS project ON project.id = source.project_id
    LEFT JOIN workspaces AS workspace ON workspace.id = source.workspace_id
$$;
REVOKE ALL ON FUNCTION judge_callers(jsonb, timestamptz, bigint[]) FROM PUBLIC;


-- Why a key may not send from there: the same for all events of a batch. An unknown address is in no network. No
-- subselect, or PostgreSQL could not write the body into the calling statement.
CREATE OR REPLACE FUNCTION refuse_client_origin(origins text[], networks text[], address text, origin text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN networks IS NOT NULL AND (address::inet <<= ANY (networks::inet[])) IS NOT TRUE THEN 'address_not_allowed'
        WHEN origins IS NOT NULL AND (origin = ANY (origins)) IS NOT TRUE THEN 'origin_not_allowed'
    END
$$;
REVOKE ALL ON FUNCTION refuse_client_origin(text[], text[], text, text) FROM PUBLIC;


-- `payment.*` is every type below `payment`, and not `payment` itself.
CREATE OR REPLACE FUNCTION refuse_event_type(event_types text[], event_type text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN NOT EXISTS (
        SELECT 1 FROM unnest(event_types) AS allowed
        WHERE allowed = event_type OR right(allowed, 2) = '.*' AND starts_with(event_type, left(allowed, -1))
    ) THEN 'event_type_not_allowed' END
$$;
REVOKE ALL ON FUNCTION refuse_event_type(text[], text) FROM PUBLIC;


-- The events of a group, each with the rows of its key and the refusal that its caller or its policies give it. `far` is
-- the source's timestamp policy if the event's timestamp is out of bounds: `refuse` refuses only what is new, so
-- store_events decides. A key without policies costs one look at three values that are NULL. `caller` is materialized,
-- or its joins could be repeated for each event.
CREATE OR REPLACE FUNCTION judge_items(callers jsonb, items jsonb, judged timestamptz, held bigint[])
RETURNS TABLE (n integer, event_uid uuid, counted_under uuid, event_id text, idempotency_key text, fingerprint bytea,
    event_type text, severity text, occurred_at timestamptz, payload jsonb, payload_bytes bigint, receipt text,
    address text, source_key_id bigint, source_id bigint, project_id bigint, environment_id bigint, workspace_id bigint,
    refusal text, far text, earliest timestamptz, latest timestamptz)
LANGUAGE sql STABLE AS $$
    WITH caller AS MATERIALIZED (SELECT * FROM judge_callers(callers, judged, held))
    SELECT item.n, item.event_uid, item.counted_under, item.event_id, item.idempotency_key,
        decode(item.fingerprint, 'base64'), item.event_type, item.severity, item.occurred_at, item.payload,
        item.payload_bytes, item.receipt, item.address, caller.source_key_id, caller.source_id, caller.project_id,
        caller.environment_id, caller.workspace_id,
        CASE
            WHEN caller.refusal IS NOT NULL THEN caller.refusal
            WHEN coalesce(caller.allowed_event_types, caller.allowed_origins, caller.allowed_networks) IS NOT NULL
                THEN coalesce(
                    refuse_client_origin(caller.allowed_origins, caller.allowed_networks, item.address, item.origin),
                    CASE WHEN caller.allowed_event_types IS NOT NULL
                        THEN refuse_event_type(caller.allowed_event_types, item.event_type) END)
        END,
        CASE WHEN item.occurred_at NOT BETWEEN caller.earliest AND caller.latest THEN caller.timestamp_policy END,
        caller.earliest, caller.latest
    FROM jsonb_to_recordset(items) AS item (
        n integer, caller integer, event_uid uuid, counted_under uuid, event_id text, idempotency_key text,
        fingerprint text, event_type text, severity text, occurred_at timestamptz, payload jsonb, payload_bytes bigint,
        receipt text, address text, origin text)
    JOIN caller USING (caller)
$$;
REVOKE ALL ON FUNCTION judge_items(jsonb, jsonb, timestamptz, bigint[]) FROM PUBLIC;


-- Whether a live key of any workspace allows this origin: a preflight has no key. As the owner, because below a row
-- security policy the array operator could not use the index ix_source_keys_allowed_origins: it is not leakproof.
CREATE OR REPLACE FUNCTION is_origin_allowed(origin text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
    SELECT EXISTS (
        SELECT 1 FROM source_keys
        WHERE allowed_origins IS NOT NULL AND allowed_origins @> ARRAY[origin]
            AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
    )
$$;
REVOKE ALL ON FUNCTION is_origin_allowed(text) FROM PUBLIC;
