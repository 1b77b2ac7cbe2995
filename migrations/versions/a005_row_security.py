"""Row security: the app's role sees the rows of the workspace that its transaction has named (docs/decisions/0011).

The policies read two settings (app/database/engine.py). Every role can SET, so `migrate` gives the policies to the
app's role alone (app/database/row_security.py): migrations do not know that role's name. The comparison with the
workspace comes first, because it decides nearly every row that a query of the app meets.

Policies have no subselect: a subselect would read the settings once per statement and not once per row, but no
subselect in a policy can be planned on a cluster of servers, and a query that names its workspace filters by an index
before the policy is asked.
"""

from alembic import op

revision = "a005"
down_revision = "a004"
branch_labels = None
depends_on = None

_ALL_WORKSPACES = "current_setting('lariba.all_workspaces', true) = 'on'"
_WORKSPACE = "nullif(current_setting('lariba.workspace', true), '')::bigint"
_TABLES = {
    "workspaces": "id",
    "projects": "workspace_id",
    "environments": "workspace_id",
    "sources": "workspace_id",
    "source_keys": "workspace_id",
    "management_tokens": "workspace_id",
    "management_requests": "workspace_id",
    "audit_entries": "workspace_id",
    "events": "workspace_id",
    "event_ledger": "workspace_id",
    "idempotency_records": "workspace_id",
    "usage_outbox": "workspace_id",
    "usage_hours": "workspace_id",
}


def upgrade() -> None:
    for table, column in _TABLES.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY within_workspace ON {table} USING ({column} = {_WORKSPACE} OR {_ALL_WORKSPACES})")
    op.execute("ALTER TABLE maintenance_tasks ENABLE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY all_workspaces ON maintenance_tasks USING ({_ALL_WORKSPACES})")
    # Events are read through a view of the owner's. Below a policy only leakproof operators may be conditions of an
    # index, and those of jsonb are not; below this view there is no policy, and it carries the condition itself. Not a
    # security barrier: a function that leaks could be shown rows of others. So only the app's role reads it, which
    # could name any workspace anyway.
    op.execute(f"""
        CREATE VIEW readable_events AS
        SELECT project_id, received_at, event_uid, workspace_id, environment_id, source_id, source_key_id, event_id,
            event_type, severity, occurred_at, payload, is_occurred_at_far
        FROM events WHERE workspace_id = {_WORKSPACE}""")


def downgrade() -> None:
    op.execute("DROP VIEW readable_events")
    op.execute("DROP POLICY all_workspaces ON maintenance_tasks")
    op.execute("ALTER TABLE maintenance_tasks DISABLE ROW LEVEL SECURITY")
    for table in _TABLES:
        op.execute(f"DROP POLICY within_workspace ON {table}")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
