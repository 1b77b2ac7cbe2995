"""Row security: the planner expects a transaction over all workspaces to see half the rows, and not one in 200.

It takes a comparison of a setting for one with a column that has 200 values. Of coalesce it knows nothing, and expects
one half (docs/decisions/0011). What the policies admit stays the same.

Each statement is a transaction of its own: it locks one table, and so waits for a transaction of ingest, which locks
several, but never in a circle with it. ALTER POLICY may be repeated, so a run that was cut off is run again.
"""

from alembic import op
from sqlalchemy import text

revision = "a007"
down_revision = "a006"
branch_labels = None
depends_on = None

_COMPARED = "current_setting('lariba.all_workspaces', true) = 'on'"
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
_PARTITIONS = "SELECT inhrelid FROM pg_inherits WHERE inhparent = 'events'::regclass"


def upgrade() -> None:
    _set_policies(f"coalesce({_COMPARED}, false)")


def downgrade() -> None:
    _set_policies(_COMPARED)


def _set_policies(all_workspaces: str) -> None:
    with op.get_context().autocommit_block():
        for table, column in _TABLES.items():
            op.execute(f"ALTER POLICY within_workspace ON {table} USING ({column} = {_WORKSPACE} OR {all_workspaces})")
        op.execute(f"ALTER POLICY all_workspaces ON maintenance_tasks USING ({all_workspaces})")
        # After `events`, so that a partition which the worker makes meanwhile has the new policies from there.
        for partition in op.get_bind().execute(text(_PARTITIONS)).scalars().all():
            op.execute(f"SELECT copy_event_policies({partition})")
