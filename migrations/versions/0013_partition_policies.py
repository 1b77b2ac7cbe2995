"""Row level security by the name of each partition, roles for reports, and the view that events are read through.

A policy binds who asks by the name of its table, so a partition needs policies of its own: whoever could read
`events_20260601` read every workspace. They are copied from `events` when a partition is made.

The policies so far were for everybody, and ask settings that everybody can SET. That is enough against our own
mistakes, and nothing against a role for reports. So `migrate` gives them to the app's role alone (schema.py), and
a role for reports gets policies of its own, which name its workspace: nothing that it can say changes them.

Below a policy only operators that leak nothing may use an index, and those of jsonb are not among them. A view of the
owner's has no policy below it: it carries the tenant's condition itself, and the payload's indexes serve.
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_WALL_EVENT_PARTITION = """
    CREATE FUNCTION wall_event_partition(partition regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
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
            FROM pg_policies WHERE schemaname = 'public' AND tablename = 'events'
        LOOP
            EXECUTE format('CREATE POLICY %I ON %s AS %s FOR %s TO %s', policy.policyname, partition,
                           policy.permissive, policy.cmd, policy.roles)
                || coalesce(' USING (' || policy.qual || ')', '')
                || coalesce(' WITH CHECK (' || policy.with_check || ')', '');
        END LOOP;
    END $$
"""
# As in 0002, which says why; new is the line that puts policies on what it makes.
_MAKE_EVENT_PARTITIONS = """
    CREATE OR REPLACE FUNCTION make_event_partitions(first_day date, days integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET timezone = 'UTC' AS $$
    DECLARE
        day date;
        partition text;
        made integer := 0;
    BEGIN
        -- Two workers at once: the second waits here and then finds everything made.
        PERFORM pg_advisory_xact_lock(hashtextextended('make_event_partitions', 0));
        FOR day IN SELECT first_day + n FROM generate_series(0, days - 1) AS n LOOP
            partition := 'events_' || to_char(day, 'YYYYMMDD');
            CONTINUE WHEN to_regclass(partition) IS NOT NULL;
            BEGIN
                EXECUTE format('CREATE TABLE %I (LIKE events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition);
                %WALL%
                EXECUTE format('ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                               partition, day::timestamptz, (day + 1)::timestamptz);
                made := made + 1;
            EXCEPTION WHEN check_violation THEN
                RAISE WARNING 'the default partition holds events of %, which stay there', day;
            END;
        END LOOP;
        RETURN made;
    END $$
"""
# Called by the owner. What a role for reports may read is no credential: not the keys, the tokens or the requests.
_ADMIT_REPORT_ROLE = """
    CREATE FUNCTION admit_report_role(report_role name, workspace text) RETURNS void
    LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
    DECLARE
        policy name := 'report_' || left(report_role::text, 50);
        here bigint;
        what record;
    BEGIN
        SELECT id INTO here FROM workspaces WHERE public_id = workspace;
        IF here IS NULL THEN
            RAISE EXCEPTION 'there is no workspace %', workspace;
        END IF;
        FOR what IN
            SELECT 'workspaces' AS name, 'id = ' || here AS is_here
            UNION ALL SELECT unnest('{projects,environments,sources,audit_entries,events}'::text[]),
                'workspace_id = ' || here
            UNION ALL SELECT 'usage_hours',
                format('project_id IN (SELECT id FROM projects WHERE workspace_id = %s)', here)
        LOOP
            EXECUTE format('DROP POLICY IF EXISTS %I ON %I', policy, what.name);
            EXECUTE format('CREATE POLICY %I ON %I FOR SELECT TO %I USING (%s)',
                           policy, what.name, report_role, what.is_here);
            EXECUTE format('GRANT SELECT ON %I TO %I', what.name, report_role);
        END LOOP;
        PERFORM wall_event_partition(inhrelid) FROM pg_inherits WHERE inhparent = 'events'::regclass;
    END $$
"""
# Not a security barrier: a function that leaks could be called with rows of others before the condition has been. Only
# the app's role reads it, which could also say whom it works for (docs/decisions/0011).
_READABLE_EVENTS = """
    CREATE VIEW readable_events AS
    SELECT project_id, received_at, event_uid, workspace_id, environment_id, source_id, source_key_id, event_id,
        event_type, severity, occurred_at, payload
    FROM events
    WHERE workspace_id = (SELECT nullif(current_setting('lariba.workspace', true), '')::bigint)
"""
_PARTITIONS = "FROM pg_inherits WHERE inhparent = 'events'::regclass"
_OPEN_PARTITION = """
    DO $$
    DECLARE
        partition regclass;
    BEGIN
        FOR partition IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'events'::regclass LOOP
            EXECUTE format('DROP POLICY IF EXISTS within_workspace ON %s', partition);
            EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', partition);
        END LOOP;
    END $$
"""


def upgrade() -> None:
    op.execute(_WALL_EVENT_PARTITION)
    op.execute(_MAKE_EVENT_PARTITIONS.replace("%WALL%", "PERFORM wall_event_partition(partition::regclass);"))
    op.execute(_ADMIT_REPORT_ROLE)
    for function in ("wall_event_partition(regclass)", "admit_report_role(name, text)"):
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    op.execute(f"SELECT wall_event_partition(inhrelid) {_PARTITIONS}")
    op.execute(_READABLE_EVENTS)


def downgrade() -> None:
    op.execute("DROP VIEW readable_events")
    op.execute("DROP FUNCTION admit_report_role(name, text)")
    op.execute(_MAKE_EVENT_PARTITIONS.replace("%WALL%", ""))
    op.execute("DROP FUNCTION wall_event_partition(regclass)")
    op.execute(_OPEN_PARTITION)
