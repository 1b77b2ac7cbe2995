-- Daily partitions of `events`, and the row security policies on each.


-- Gives a partition the policies of `events`: PostgreSQL applies the policies of the table that a query names, so one
-- that names a partition is not bound by those of its parent.
CREATE OR REPLACE FUNCTION copy_event_policies(partition regclass) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    policy record;
BEGIN
    FOR policy IN SELECT polname FROM pg_policy WHERE polrelid = partition LOOP
        EXECUTE format('DROP POLICY %I ON %s', policy.polname, partition);
    END LOOP;
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', partition);
    FOR policy IN
        SELECT policyname, permissive, cmd, qual, with_check,
            (SELECT string_agg(CASE role WHEN 'public' THEN 'PUBLIC' ELSE quote_ident(role) END, ', ')
             FROM unnest(roles) AS role) AS roles
        FROM pg_policies WHERE schemaname = current_schema() AND tablename = 'events'
    LOOP
        EXECUTE format('CREATE POLICY %I ON %s AS %s FOR %s TO %s', policy.policyname, partition,
                       policy.permissive, policy.cmd, policy.roles)
            || coalesce(' USING (' || policy.qual || ')', '')
            || coalesce(' WITH CHECK (' || policy.with_check || ')', '');
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION copy_event_policies(regclass) FROM PUBLIC;


-- Makes the partitions of so many days; returns how many it made. As the tables' owner, because the app's role owns no
-- table. A partition is created first and attached afterwards: ATTACH takes a lock on `events` beside which inserts go
-- on, CREATE TABLE ... PARTITION OF one that stops them. Days are days in UTC. A day of which the default partition
-- already holds rows cannot be attached and stays there. Beside a default partition of more than 16 MB nothing is made:
-- each ATTACH would scan it with writers locked out; the worker empties it first
-- (app/maintenance/default_partition.py). A scan of 16 MB takes some milliseconds.
CREATE OR REPLACE FUNCTION make_event_partitions(first_day date, days integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
DECLARE
    day date;
    partition text;
    made integer := 0;
BEGIN
    -- Of two workers at once, the second waits here and then finds everything made.
    PERFORM pg_advisory_xact_lock(hashtextextended('make_event_partitions', 0));
    -- Every lock from here on is one that ingest would queue behind.
    PERFORM set_config('lock_timeout', '50ms', true);
    IF pg_relation_size('events_default') > 16 * 1024 * 1024 THEN
        RAISE WARNING 'no partition is made beside a full default partition';
        RETURN 0;
    END IF;
    FOR day IN SELECT first_day + n FROM generate_series(0, days - 1) AS n LOOP
        partition := 'events_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass(partition) IS NOT NULL;
        BEGIN
            EXECUTE format('CREATE TABLE %I (LIKE events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition);
            PERFORM copy_event_policies(partition::regclass);
            EXECUTE format('ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                           partition, day::timestamptz, (day + 1)::timestamptz);
            made := made + 1;
        EXCEPTION WHEN check_violation THEN
            RAISE WARNING 'the default partition holds events of %, which stay there', day;
        END;
    END LOOP;
    RETURN made;
END $$;
REVOKE ALL ON FUNCTION make_event_partitions(date, integer) FROM PUBLIC;
