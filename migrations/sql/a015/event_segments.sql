-- The skip index: what some thousand consecutive events of a project hold, so that a search for something rare reads only
-- the segments that have it (docs/decisions/0023). Built a few seconds behind ingest, and by position: no event can come
-- into a range of positions below the horizon, whatever happens to a clock.
--
-- The tokens of an event are the words of its payload (event_text.sql), which hold no colon, and `id:`, `type:`, `below:` (each
-- type that a key's policy `payment.*` could name), `severity:`, `source:`, `key:` and `env:` with what it has of these; and
-- `is:` with each member of the payload and its value, if that is short or true, false or null: `is:status:502`. As a word
-- 502 is in most segments, as one of many numbers. `is:tags:[` says that a member is a list or an object.
--
-- Its kinds are the combinations of type, severity, source, key and environment that occur in it, and `event_positions` has
-- the position of each event, those of one kind beside each other up to its `kind_ends`. So a search by these fields reads
-- the events that have them, and what shares a position with them (a batch has one): two of a thousand, and not the thousand.


-- What a word counts as in the tokens of a project: 25 bits. Another word with the same token costs a segment that is
-- read in vain. With more bits most tokens of ids and numbers would be in one segment alone, and an entry of the index
-- for each takes more than a place in the list of another: at 20 million events, 31 bits take 214 bytes for each event,
-- and 25 bits 134 to 172. A token is in five segments then, one of them of the largest project. By project, so that
-- no neighbour's words make a segment of another one likelier.
CREATE OR REPLACE FUNCTION event_token(word text, project bigint) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (hashtextextended(word, project) & 33554431)::integer
$$;
REVOKE ALL ON FUNCTION event_token(text, bigint) FROM PUBLIC;


-- Builds the next segment of a project, of `size` events below the horizon or a few more (those of one position stay
-- together); returns how many it holds, or 0 if fewer are there. The days are written into the statement, so that its plan
-- names their partitions alone: at most eight of those that hold events of the project, and no position that a later one
-- may hold too. Where more days follow a segment may be smaller: a project with few events a day would never fill one.
-- In the order of the index on positions, and no bitmap: as long as the planner does not know how much a day holds, it
-- would sort all that has no segment yet for each of them.
CREATE OR REPLACE FUNCTION build_event_segment(project bigint, size integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET timezone = 'UTC' SET enable_bitmapscan = off AS $$
DECLARE
    after bigint;
    until bigint;
    day record;
    within text;
    days text[] := '{}';
    is_held boolean;
    least_events integer := size;
    built integer;
BEGIN
    -- Of two at once the second waits for the first and goes on behind it: 0 would say that nothing is left to do.
    PERFORM pg_advisory_xact_lock(hashtextextended('event_segments', project));
    SELECT coalesce(max(last_position), 0) INTO after FROM event_segments WHERE project_id = project;
    SELECT place INTO until FROM projects, event_horizon(workspace_id) WHERE id = project;
    FOR day IN SELECT * FROM event_days_after(after) ORDER BY first_position, begins LOOP
        within := format('received_at >= %L AND received_at < %L', day.begins, day.ends);
        EXECUTE format('SELECT EXISTS (SELECT FROM events WHERE project_id = $1 AND position > $2 AND %s)', within)
            USING project, after INTO is_held;
        CONTINUE WHEN NOT is_held;
        IF cardinality(days) = 8 THEN
            until := least(until, day.first_position - 1);
            least_events := 1;
            EXIT;
        END IF;
        days := days || within;
    END LOOP;
    IF cardinality(days) = 0 THEN
        RETURN 0;
    END IF;
    EXECUTE format($statement$
        WITH next AS MATERIALIZED (
            SELECT workspace_id, position, received_at, event_id, event_type, severity, source_id, source_key_id,
                environment_id, payload
            FROM events
            WHERE project_id = $1 AND position > $2 AND position <= $3 AND (%s)
            ORDER BY position FETCH FIRST $4 ROWS WITH TIES
        ), numbered AS MATERIALIZED (
            SELECT workspace_id, position, received_at, event_type, severity, source_id, source_key_id, environment_id,
                dense_rank() OVER (ORDER BY event_type, severity, source_id, source_key_id, environment_id) AS kind
            FROM next
        ), kinds AS MATERIALIZED (
            SELECT kind, event_type, severity, source_id, source_key_id, environment_id,
                sum(count(*)) OVER (ORDER BY kind) AS ends
            FROM numbered GROUP BY 1, 2, 3, 4, 5, 6
        )
        INSERT INTO event_segments (project_id, last_position, first_position, workspace_id, begins_at, ends_at, events,
            tokens, kind_types, kind_severities, kind_sources, kind_keys, kind_environments, kind_ends, event_positions)
        SELECT $1, max(position), min(position), min(workspace_id), min(received_at), max(received_at), count(*),
            ARRAY(SELECT DISTINCT event_token(word, $1) FROM (
                SELECT unnest(string_to_array(event_text(payload), ' ')) AS word FROM next
                UNION ALL
                SELECT 'id:' || event_id FROM next
                UNION ALL
                SELECT unnest(ARRAY['type:' || event_type, 'severity:' || severity, 'source:' || source_id,
                    'key:' || source_key_id, 'env:' || environment_id]) FROM kinds
                UNION ALL
                SELECT 'below:' || array_to_string(parts[1:n], '.')
                FROM (SELECT DISTINCT string_to_array(event_type, '.') AS parts FROM kinds) AS type,
                    generate_series(1, cardinality(parts) - 1) AS n
                UNION ALL
                SELECT 'is:' || name || ':' || value FROM (
                    SELECT key AS name, CASE jsonb_typeof(value)
                        WHEN 'string' THEN value #>> '{}'
                        WHEN 'number' THEN trim_scale(value::numeric)::text
                        WHEN 'array' THEN '['
                        WHEN 'object' THEN '['
                        ELSE value::text END AS value
                    FROM next, jsonb_each(payload)
                ) AS members WHERE octet_length(value) <= 3 OR value IN ('true', 'false', 'null')
            ) AS words WHERE word NOT IN ('', '"')),
            ARRAY(SELECT event_type FROM kinds ORDER BY kind), ARRAY(SELECT severity FROM kinds ORDER BY kind),
            ARRAY(SELECT source_id FROM kinds ORDER BY kind), ARRAY(SELECT source_key_id FROM kinds ORDER BY kind),
            ARRAY(SELECT environment_id FROM kinds ORDER BY kind), ARRAY(SELECT ends::integer FROM kinds ORDER BY kind),
            array_agg(position ORDER BY kind, position)
        FROM numbered HAVING count(*) >= $5
        RETURNING events
    $statement$, array_to_string(days, ' OR ')) USING project, after, until, size, least_events INTO built;
    RETURN coalesce(built, 0);
END $$;
REVOKE ALL ON FUNCTION build_event_segment(bigint, integer) FROM PUBLIC;
