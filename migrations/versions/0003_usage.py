"""Usage: the outbox that the ingest transaction writes, and the hourly counts that the worker folds it into."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_OUTCOMES = "CHECK (outcome IN ('stored', 'duplicate', 'replayed'))"


def upgrade() -> None:
    op.execute(f"""
        CREATE TABLE usage_outbox (
            project_id bigint NOT NULL,
            usage_uid uuid NOT NULL,
            source_id bigint NOT NULL,
            source_key_id bigint NOT NULL,
            outcome text NOT NULL,
            payload_bytes bigint NOT NULL,
            received_at timestamptz NOT NULL,
            CONSTRAINT pk_usage_outbox PRIMARY KEY (project_id, usage_uid),
            CONSTRAINT ck_usage_outbox_outcome {_OUTCOMES}
        )""")
    op.execute(f"""
        CREATE TABLE usage_hours (
            project_id bigint NOT NULL,
            source_key_id bigint NOT NULL,
            hour timestamptz NOT NULL,
            outcome text NOT NULL,
            source_id bigint NOT NULL,
            events bigint NOT NULL,
            payload_bytes bigint NOT NULL,
            CONSTRAINT pk_usage_hours PRIMARY KEY (project_id, source_key_id, hour, outcome),
            CONSTRAINT ck_usage_hours_outcome {_OUTCOMES}
        )""")


def downgrade() -> None:
    op.execute("DROP TABLE usage_hours")
    op.execute("DROP TABLE usage_outbox")
