"""The cells that this one knows of, and which of them it is itself."""

from alembic import op

revision = "a019"
down_revision = "a018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE cells (
            name text COLLATE "C" NOT NULL,
            is_own boolean NOT NULL DEFAULT false,
            is_draining boolean NOT NULL DEFAULT false,
            added_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT pk_cells PRIMARY KEY (name)
        );
        CREATE UNIQUE INDEX uq_cells_is_own ON cells (is_own) WHERE is_own;
        ALTER TABLE cells ENABLE ROW LEVEL SECURITY;
        -- Of no workspace, and no secret: every process asks for its own name before it serves.
        CREATE POLICY all_workspaces ON cells USING (true)""")


def downgrade() -> None:
    op.execute("DROP TABLE cells")
