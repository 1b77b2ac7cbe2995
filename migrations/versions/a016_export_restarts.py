"""How often an export has begun anew because its file was lost."""

from alembic import op

revision = "a016"
down_revision = "a015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE exports ADD COLUMN restarts integer NOT NULL DEFAULT 0")


def downgrade() -> None:
    op.execute("ALTER TABLE exports DROP COLUMN restarts")
