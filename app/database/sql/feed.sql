-- The order in which events are followed: (position, event_uid). Each group of ingest takes a position from the sequence
-- event_positions; no clock takes part in it (docs/decisions/0023).


-- Up to where nothing of a workspace can commit any more: every event with this position or a lower one, and every event
-- received before this moment, is visible to the next statement, or never will be.
--
-- The order of the statements is what makes it true. store_events locks what it has read of the sequence and the clock,
-- before it takes its position and its moment. So a group that is not seen here among the locks took its locks after the
-- first statement here, and its position and moment are later. One that is seen may have any position above the locked
-- one. Only the sessions that hold the workspace's lock are asked: a write that is left open elsewhere delays no reader.
--
-- An advisory lock on a 64-bit key shows its halves as classid and objid. plpgsql, so that each statement has its turn.
CREATE OR REPLACE FUNCTION event_horizon(workspace bigint, OUT place bigint, OUT moment timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    oldest record;
BEGIN
    SELECT last_value, clock_timestamp() FROM event_positions INTO place, moment;
    WITH lock AS MATERIALIZED (
        SELECT pid, classid::bigint << 32 | objid::bigint AS key FROM pg_locks
        WHERE locktype = 'advisory' AND objsubid = 1 AND granted
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    )
    SELECT min(key - x'6c74000000000000'::bigint)
            FILTER (WHERE key BETWEEN x'6c74000000000000'::bigint AND x'6c74ffffffffffff'::bigint) AS place,
        min(key - x'6c75000000000000'::bigint)
            FILTER (WHERE key BETWEEN x'6c75000000000000'::bigint AND x'6c75ffffffffffff'::bigint) AS milliseconds
    FROM lock
    WHERE pid IN (SELECT pid FROM lock WHERE key = x'6c72000000000000'::bigint | workspace)
    INTO oldest;
    place := least(place, oldest.place);
    moment := least(moment, to_timestamp(oldest.milliseconds / 1000.0));
END $$;
REVOKE ALL ON FUNCTION event_horizon(bigint) FROM PUBLIC;


-- The days that can hold events with a higher position than this one, as ranges of received_at, and the lowest position
-- of each: 0 for a day that is not closed, which can hold any. In the order in which they are to be read. A mark in
-- event_days counts only while the day is over by PostgreSQL's clock: one that was set far ahead closed days that it
-- comes to again. Days of which the default partition holds events are among them.
CREATE OR REPLACE FUNCTION event_days_after(after bigint)
RETURNS TABLE (begins timestamptz, ends timestamptz, first_position bigint)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
    WITH RECURSIVE stray AS (
        SELECT min(received_at)::date AS day FROM events_default
        UNION ALL
        SELECT (SELECT min(received_at)::date FROM events_default WHERE received_at >= (day + 1)::timestamptz)
        FROM stray WHERE day IS NOT NULL
    ),
    -- A subselect by oid: a join would go through all names that begin with events_, for each partition anew.
    child AS (
        SELECT inhrelid, (SELECT relname FROM pg_class WHERE oid = inhrelid) AS name
        FROM pg_inherits WHERE inhparent = 'events'::regclass
    ),
    attached AS MATERIALIZED (
        SELECT inhrelid, to_date(substr(name, 8), 'YYYYMMDD') AS day FROM child WHERE name ~ '^events_[0-9]{8}$'
    ),
    marked AS MATERIALIZED (
        SELECT inhrelid, attached.day, mark.first_position, mark.last_position
        FROM attached LEFT JOIN event_days AS mark
            ON mark.day = attached.day AND mark.day < (clock_timestamp() - interval '1 hour')::date
    ),
    found AS (
        SELECT day, first_position FROM marked WHERE CASE
            WHEN last_position IS NOT NULL THEN last_position > after
            ELSE pg_relation_size(inhrelid) > 0
        END
        UNION ALL
        SELECT day, NULL FROM stray WHERE day IS NOT NULL
    )
    SELECT day::timestamptz, (day + 1)::timestamptz, coalesce(min(first_position), 0) FROM found
    GROUP BY day ORDER BY 3, 1
$$;
REVOKE ALL ON FUNCTION event_days_after(bigint) FROM PUBLIC;
