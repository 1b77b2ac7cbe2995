-- Lets a database role read one workspace; called by the owner (docs/operations.md). The policies hold the workspace's
-- number: no setting that the role could SET changes what it sees. Tables with credentials are not among them.
CREATE OR REPLACE FUNCTION admit_report_role(report_role name, workspace text) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    policy name := 'report_' || left(report_role::text, 50);
    here bigint;
    relation text;
BEGIN
    SELECT id INTO here FROM workspaces WHERE public_id = workspace;
    IF here IS NULL THEN
        RAISE EXCEPTION 'there is no workspace %', workspace;
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), report_role);
    FOREACH relation IN ARRAY '{workspaces,projects,environments,sources,audit_entries,events,usage_hours}'::text[] LOOP
        EXECUTE format('DROP POLICY IF EXISTS %I ON %I', policy, relation);
        EXECUTE format('CREATE POLICY %I ON %I FOR SELECT TO %I USING (%I = %s)', policy, relation, report_role,
                       CASE relation WHEN 'workspaces' THEN 'id' ELSE 'workspace_id' END, here);
        EXECUTE format('GRANT SELECT ON %I TO %I', relation, report_role);
    END LOOP;
    PERFORM copy_event_policies(inhrelid) FROM pg_inherits WHERE inhparent = 'events'::regclass;
END $$;
REVOKE ALL ON FUNCTION admit_report_role(name, text) FROM PUBLIC;
