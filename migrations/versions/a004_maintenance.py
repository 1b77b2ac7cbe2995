"""What the runs of maintenance tasks have left behind: when, how long, how much, and why not."""

from alembic import op

revision = "a004"
down_revision = "a003"
branch_labels = None
depends_on = None

_TEXT = 'text COLLATE "C"'


def upgrade() -> None:
    # Rewritten in place every few seconds, as in a001.
    op.execute(f"""
        CREATE TABLE maintenance_tasks (
            name {_TEXT} NOT NULL,
            started_at timestamptz,
            succeeded_at timestamptz,
            failed_at timestamptz,
            error {_TEXT},
            failures_in_a_row bigint NOT NULL DEFAULT 0,
            has_more boolean NOT NULL DEFAULT false,
            runs bigint NOT NULL DEFAULT 0,
            failures bigint NOT NULL DEFAULT 0,
            rows_done bigint NOT NULL DEFAULT 0,
            seconds double precision NOT NULL DEFAULT 0,
            seconds_total double precision NOT NULL DEFAULT 0,
            CONSTRAINT pk_maintenance_tasks PRIMARY KEY (name)
        ) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05)""")


def downgrade() -> None:
    op.execute("DROP TABLE maintenance_tasks")
