"""What the runs of maintenance tasks have left behind: when, how long, how much, and why not."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_EVERYWHERE = "(SELECT current_setting('lariba.everywhere', true) = 'on')"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE maintenance_tasks (
            name text NOT NULL,
            started_at timestamptz,
            succeeded_at timestamptz,
            failed_at timestamptz,
            error text,
            failures_in_a_row bigint NOT NULL DEFAULT 0,
            has_more boolean NOT NULL DEFAULT false,
            runs bigint NOT NULL DEFAULT 0,
            failures bigint NOT NULL DEFAULT 0,
            rows_done bigint NOT NULL DEFAULT 0,
            seconds double precision NOT NULL DEFAULT 0,
            seconds_total double precision NOT NULL DEFAULT 0,
            CONSTRAINT pk_maintenance_tasks PRIMARY KEY (name)
        )""")
    # Of no workspace: the worker and the operator see it, and nobody who has named one.
    op.execute("ALTER TABLE maintenance_tasks ENABLE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY everywhere ON maintenance_tasks USING ({_EVERYWHERE})")


def downgrade() -> None:
    op.execute("DROP TABLE maintenance_tasks")
