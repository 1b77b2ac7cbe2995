"""Usage: what reading it needs, and when the keys that are already there were first used."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # What a project did in some hours; the primary key serves what a key did.
    op.execute("CREATE INDEX ix_usage_hours_hour ON usage_hours (project_id, hour)")
    # The workspace's keys, newest first.
    op.execute("CREATE INDEX ix_source_keys_workspace_id ON source_keys (workspace_id, id)")
    # The worker notes a first use from now on. Of earlier ones the hour is known.
    op.execute("""
        UPDATE source_keys AS key SET first_used_at = greatest(key.created_at, used.hour)
        FROM (
            SELECT source_key_id, min(hour) AS hour FROM usage_hours
            WHERE outcome IN ('stored', 'duplicate', 'replayed') GROUP BY 1
        ) AS used
        WHERE key.id = used.source_key_id AND key.first_used_at IS NULL""")


def downgrade() -> None:
    op.execute("DROP INDEX ix_source_keys_workspace_id")
    op.execute("DROP INDEX ix_usage_hours_hour")
