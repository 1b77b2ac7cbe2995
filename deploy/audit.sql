-- Is the database whole? For psql as the owner; also good on a database that is at work: all three answers are of one
-- moment. docs/backup.md says how to read them. It reads every row of events and event_ledger once.
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;

-- 1. Each day (UTC) as three tables have it that know nothing of each other: events, the ledger of their ids, usage.
--    Every event has exactly one row in the ledger, under its own uid: an event without one is a second copy, or the
--    ledger has lost a row.
WITH pairs AS (
    SELECT (coalesce(event.received_at, claim.received_at) AT TIME ZONE 'UTC')::date AS day,
        event.event_uid AS event, claim.event_uid AS claim
    FROM events AS event
    FULL JOIN event_ledger AS claim USING (project_id, source_id, event_id, event_uid)
),
stored AS (
    SELECT day, count(event) AS events, count(claim) AS in_ledger,
        count(event) FILTER (WHERE claim IS NULL) AS not_in_ledger,
        count(claim) FILTER (WHERE event IS NULL) AS without_event
    FROM pairs GROUP BY day
),
used AS (
    SELECT (hour AT TIME ZONE 'UTC')::date AS day, events FROM usage_hours WHERE outcome = 'stored'
    UNION ALL
    SELECT (received_at AT TIME ZONE 'UTC')::date, events FROM usage_outbox WHERE outcome = 'stored'
),
counted AS (
    SELECT day, sum(events) AS in_usage FROM used GROUP BY day
)
SELECT day, coalesce(events, 0) AS events, coalesce(in_ledger, 0) AS in_ledger, coalesce(in_usage, 0) AS in_usage,
    coalesce(not_in_ledger, 0) AS not_in_ledger, coalesce(without_event, 0) AS without_event,
    CASE
        WHEN events = in_usage AND not_in_ledger = 0 AND without_event = 0 THEN 'whole'
        WHEN coalesce(events, 0) < in_usage AND coalesce(not_in_ledger, 0) = 0 THEN 'fewer events'
        WHEN events = in_usage AND without_event = 0 THEN 'fewer in the ledger'
        ELSE 'differs'
    END AS finding
FROM stored FULL JOIN counted USING (day) ORDER BY day;

-- 2. Idempotency records that say "stored" (a single event's 201), and whether the event is there. Only those that
--    still count: an expired one may outlive its event.
SELECT count(*) AS records, count(*) FILTER (WHERE event.event_uid IS NULL) AS without_event,
    max(record.created_at) AS newest
FROM idempotency_records AS record
LEFT JOIN events AS event ON event.project_id = record.project_id AND event.received_at = record.created_at
    AND event.event_uid = record.event_uid
WHERE record.response_status = 201 AND record.expires_at > now();

-- 3. How far the data go, and how much there is: to hold against the same table from before.
SELECT 'events' AS what, count(*) AS rows, max(received_at) AS newest FROM events
UNION ALL SELECT 'events in no partition of a day', count(*), max(received_at) FROM events_default
UNION ALL SELECT 'event_ledger', count(*), max(received_at) FROM event_ledger
UNION ALL SELECT 'usage_hours', count(*), max(hour) FROM usage_hours
UNION ALL SELECT 'read_hours', count(*), max(hour) FROM read_hours
UNION ALL SELECT 'usage_outbox', count(*), max(received_at) FROM usage_outbox
UNION ALL SELECT 'workspaces', count(*), max(created_at) FROM workspaces
UNION ALL SELECT 'sources', count(*), max(created_at) FROM sources
UNION ALL SELECT 'source_keys that live', count(*), max(created_at) FROM source_keys
    WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
UNION ALL SELECT 'source_keys revoked', count(*), max(revoked_at) FROM source_keys WHERE revoked_at IS NOT NULL
UNION ALL SELECT 'management_tokens that live', count(*), max(created_at) FROM management_tokens
    WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
UNION ALL SELECT 'consumers', count(*), max(committed_at) FROM consumers
UNION ALL SELECT 'exports', count(*), max(created_at) FROM exports WHERE archived_at IS NULL
UNION ALL SELECT 'exports that are pending', count(*), max(created_at) FROM exports WHERE ended_at IS NULL
UNION ALL SELECT 'replays', count(*), max(created_at) FROM replays
UNION ALL SELECT 'replays that are pending', count(*), max(created_at) FROM replays WHERE ended_at IS NULL
UNION ALL SELECT 'audit_entries', count(*), max(created_at) FROM audit_entries
ORDER BY what;

COMMIT;
