"""Key life: that a key or token has passed its expiry is noted on it, once per expiry.

The mark is the expiry that was seen to pass, so a mark that is not the row's expiry counts for nothing: code of before
may move an expiry without knowing of it. That is also why no constraint holds the two together.
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_TABLES = ("source_keys", "management_tokens")


def upgrade() -> None:
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} ADD COLUMN expired_at timestamptz")
        # What mark_expired_keys looks at every minute: those whose expiry is still to come, and the few that wait.
        op.execute(f"""
            CREATE INDEX ix_{table}_unmarked ON {table} (expires_at)
                WHERE revoked_at IS NULL AND expired_at IS DISTINCT FROM expires_at""")


def downgrade() -> None:
    for table in _TABLES:
        op.execute(f"DROP INDEX ix_{table}_unmarked")
        op.execute(f"ALTER TABLE {table} DROP COLUMN expired_at")
