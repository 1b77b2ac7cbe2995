"""Indexes for the lists of projects, environments, sources and management tokens: a page is read, not sorted out.

Not CONCURRENTLY: these tables are small, so writers wait for some milliseconds; and it would wait for every older
transaction, so no deploy could migrate during a backup. Each statement is a transaction of its own, holds the lock of
one table, and may be repeated.
"""

from alembic import op

revision = "a008"
down_revision = "a007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _run(
        "CREATE INDEX IF NOT EXISTS ix_projects_created_at ON projects (workspace_id, created_at, id)",
        "CREATE INDEX IF NOT EXISTS ix_environments_created_at ON environments (project_id, created_at, id)",
        "CREATE INDEX IF NOT EXISTS ix_sources_created_at ON sources (workspace_id, created_at, id)",
        "CREATE INDEX IF NOT EXISTS ix_management_tokens_created_at"
        " ON management_tokens (workspace_id, created_at, id)",
        # The new one begins with its column.
        "DROP INDEX IF EXISTS ix_management_tokens_workspace_id",
    )


def downgrade() -> None:
    _run(
        "CREATE INDEX IF NOT EXISTS ix_management_tokens_workspace_id ON management_tokens (workspace_id)",
        "DROP INDEX IF EXISTS ix_management_tokens_created_at",
        "DROP INDEX IF EXISTS ix_sources_created_at",
        "DROP INDEX IF EXISTS ix_environments_created_at",
        "DROP INDEX IF EXISTS ix_projects_created_at",
    )


def _run(*statements: str) -> None:
    with op.get_context().autocommit_block():
        for statement in statements:
            op.execute(statement)
