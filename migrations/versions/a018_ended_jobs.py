"""Indexes that find the jobs whose rows have been kept for long enough after their end.

Not CONCURRENTLY: as in a008.
"""

from alembic import op

revision = "a018"
down_revision = "a017"
branch_labels = None
depends_on = None

_TABLES = ("exports", "replays")


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for table in _TABLES:
            op.execute(
                f"CREATE INDEX IF NOT EXISTS ix_{table}_ended_at ON {table} (ended_at) WHERE ended_at IS NOT NULL"
            )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        for table in _TABLES:
            op.execute(f"DROP INDEX IF EXISTS ix_{table}_ended_at")
