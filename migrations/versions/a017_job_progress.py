"""When a turn has last got on with a job: a job that gets turns and does nothing is seen by it."""

from alembic import op

revision = "a017"
down_revision = "a016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("exports", "replays"):
        op.execute(f"ALTER TABLE {table} ADD COLUMN progressed_at timestamptz")


def downgrade() -> None:
    for table in ("exports", "replays"):
        op.execute(f"ALTER TABLE {table} DROP COLUMN progressed_at")
