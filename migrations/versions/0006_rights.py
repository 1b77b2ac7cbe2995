"""Roles of tokens, policies of keys, and row level security: the second wall between workspaces.

The first wall is `within(workspace_id)` in the code. The second one is here: the app's role sees the rows of one
workspace at a time, the one that its transaction has named (app/database/engine.py), and none if it has named none.
`lariba.everywhere` opens all of them, for the worker, the operator's shell and the look-up that finds out whose
credential it is. store_events runs as its owner, whom the policies do not bind: it is handed keys of many workspaces
at once, and judges each by the key itself.

The settings are read in a subselect, so that they are read once per statement and not once per row.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_EVERYWHERE = "(SELECT current_setting('lariba.everywhere', true) = 'on')"
_HERE = "(SELECT nullif(current_setting('lariba.workspace', true), '')::bigint)"
_BY_WORKSPACE = (
    "projects",
    "environments",
    "sources",
    "source_keys",
    "management_tokens",
    "audit_entries",
    "management_requests",
    "events",
)
# What holds no workspace belongs to a project's: the policy of `projects` applies inside this one.
_BY_PROJECT = ("event_ledger", "idempotency_records", "usage_outbox", "usage_hours")
_WALLS = (
    ("workspaces", f"id = {_HERE}"),
    *((table, f"workspace_id = {_HERE}") for table in _BY_WORKSPACE),
    *((table, "project_id IN (SELECT id FROM projects)") for table in _BY_PROJECT),
)
_STORE_EVENTS = "store_events(jsonb, jsonb, bigint[], timestamptz, timestamptz, text)"
_OUTCOMES = "CHECK (outcome IN ('stored', 'duplicate', 'replayed'))"


def upgrade() -> None:
    # Code of before issues tokens without a role while a deploy runs: they are what they were, all-powerful.
    op.execute("""
        ALTER TABLE management_tokens
            ADD COLUMN role text NOT NULL DEFAULT 'owner'
                CONSTRAINT ck_management_tokens_role CHECK (role IN ('owner', 'admin', 'developer', 'auditor')),
            ADD COLUMN project_ids bigint[]
                CONSTRAINT ck_management_tokens_project_ids CHECK (cardinality(project_ids) > 0),
            ADD COLUMN last_used_at timestamptz""")
    op.execute("""
        ALTER TABLE workspaces
            ADD COLUMN retention_days integer
                CONSTRAINT ck_workspaces_retention_days CHECK (retention_days > 0),
            ADD COLUMN key_events_per_second integer
                CONSTRAINT ck_workspaces_key_events_per_second CHECK (key_events_per_second > 0)""")
    op.execute("""
        ALTER TABLE source_keys
            ADD COLUMN replaces_id bigint CONSTRAINT uq_source_keys_replaces_id UNIQUE,
            ADD COLUMN allowed_event_types text[],
            ADD COLUMN allowed_origins text[],
            ADD COLUMN allowed_networks text[],
            ADD COLUMN first_used_at timestamptz,
            ADD COLUMN last_addresses jsonb NOT NULL DEFAULT '[]',
            ADD CONSTRAINT ck_source_keys_browser CHECK (allowed_origins IS NULL OR allowed_event_types IS NOT NULL),
            ADD CONSTRAINT ck_source_keys_policies CHECK (cardinality(allowed_event_types) > 0
                AND cardinality(allowed_origins) > 0 AND cardinality(allowed_networks) > 0),
            ADD CONSTRAINT uq_source_keys_workspace_id_project_id_source_id_id
                UNIQUE (workspace_id, project_id, source_id, id),
            ADD CONSTRAINT fk_source_keys_workspace_id_project_id_source_id_replaces_id
                FOREIGN KEY (workspace_id, project_id, source_id, replaces_id)
                REFERENCES source_keys (workspace_id, project_id, source_id, id)""")
    # A preflight has no key: whether anybody lets an origin in is asked of all keys.
    op.execute("""
        CREATE INDEX ix_source_keys_allowed_origins ON source_keys USING gin (allowed_origins)
            WHERE allowed_origins IS NOT NULL""")
    # A refusal is counted under its code.
    for table in ("usage_outbox", "usage_hours"):
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT ck_{table}_outcome")
    op.execute("ALTER TABLE usage_outbox ADD COLUMN addresses text[]")
    op.execute("""
        ALTER TABLE audit_entries
            ADD COLUMN public_id text NOT NULL DEFAULT 'aud_' || replace(gen_random_uuid()::text, '-', '')
                CONSTRAINT uq_audit_entries_public_id UNIQUE,
            ADD COLUMN project_id bigint,
            ADD COLUMN before jsonb NOT NULL DEFAULT '{}',
            ADD COLUMN address text""")
    op.execute("ALTER TABLE audit_entries RENAME COLUMN changes TO after")
    for column in ("object_id", "actor"):
        op.execute(f"CREATE INDEX ix_audit_entries_{column} ON audit_entries (workspace_id, {column}, id)")
    op.execute("""
        CREATE TABLE management_requests (
            workspace_id bigint NOT NULL,
            actor text NOT NULL,
            idempotency_key text NOT NULL,
            fingerprint bytea NOT NULL,
            object_id text,
            credential_id text,
            created_at timestamptz NOT NULL,
            expires_at timestamptz NOT NULL,
            CONSTRAINT pk_management_requests PRIMARY KEY (workspace_id, actor, idempotency_key),
            CONSTRAINT fk_management_requests_workspace_id FOREIGN KEY (workspace_id) REFERENCES workspaces (id)
        )""")
    op.execute("CREATE INDEX ix_management_requests_expires_at ON management_requests (expires_at)")
    op.execute(f"ALTER FUNCTION {_STORE_EVENTS} SECURITY DEFINER SET search_path = public, pg_temp")
    for table, is_here in _WALLS:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY within_workspace ON {table} USING ({_EVERYWHERE} OR {is_here})")


def downgrade() -> None:
    for table, _ in _WALLS:
        op.execute(f"DROP POLICY within_workspace ON {table}")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER FUNCTION {_STORE_EVENTS} SECURITY INVOKER RESET search_path")
    op.execute("DROP TABLE management_requests")
    op.execute("ALTER TABLE audit_entries RENAME COLUMN after TO changes")
    for column in ("object_id", "actor"):
        op.execute(f"DROP INDEX ix_audit_entries_{column}")
    op.execute("""
        ALTER TABLE audit_entries DROP COLUMN public_id, DROP COLUMN project_id, DROP COLUMN before,
            DROP COLUMN address""")
    op.execute("ALTER TABLE usage_outbox DROP COLUMN addresses")
    for table in ("usage_outbox", "usage_hours"):
        op.execute(f"DELETE FROM {table} WHERE outcome NOT IN ('stored', 'duplicate', 'replayed')")
        op.execute(f"ALTER TABLE {table} ADD CONSTRAINT ck_{table}_outcome {_OUTCOMES}")
    op.execute("""
        ALTER TABLE source_keys DROP CONSTRAINT ck_source_keys_policies, DROP CONSTRAINT ck_source_keys_browser,
            DROP COLUMN replaces_id, DROP CONSTRAINT uq_source_keys_workspace_id_project_id_source_id_id,
            DROP COLUMN allowed_event_types, DROP COLUMN allowed_origins,
            DROP COLUMN allowed_networks, DROP COLUMN first_used_at, DROP COLUMN last_addresses""")
    op.execute("ALTER TABLE workspaces DROP COLUMN retention_days, DROP COLUMN key_events_per_second")
    op.execute("""
        ALTER TABLE management_tokens DROP COLUMN role, DROP COLUMN project_ids, DROP COLUMN last_used_at""")
