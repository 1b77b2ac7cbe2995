"""Usage: the outbox that the ingest transaction writes, and the hourly counts that the worker folds it into."""

from alembic import op

revision = "a003"
down_revision = "a002"
branch_labels = None
depends_on = None

_TEXT = 'text COLLATE "C"'
# The worker empties it every five seconds and reads it from its beginning each time: dead rows are read again until
# vacuum removes them. So vacuum comes by number of rows; a share of an empty table would be nothing or everything.
_EMPTIED = """WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000, autovacuum_vacuum_cost_delay = 0)"""


def upgrade() -> None:
    op.execute(f"""
        CREATE TABLE usage_outbox (
            project_id bigint NOT NULL,
            usage_uid uuid NOT NULL,
            workspace_id bigint NOT NULL,
            source_id bigint NOT NULL,
            source_key_id bigint NOT NULL,
            outcome {_TEXT} NOT NULL,
            events bigint NOT NULL DEFAULT 1,
            payload_bytes bigint NOT NULL,
            received_at timestamptz NOT NULL,
            addresses text[] COLLATE "C",
            attempts uuid[],
            CONSTRAINT pk_usage_outbox PRIMARY KEY (project_id, usage_uid)
        ) {_EMPTIED};
        -- Random bytes: an attempt to compress them costs more than it saves.
        ALTER TABLE usage_outbox ALTER COLUMN attempts SET STORAGE EXTERNAL""")
    # Rewritten in place every few seconds, as in a001.
    op.execute(f"""
        CREATE TABLE usage_hours (
            project_id bigint NOT NULL,
            source_key_id bigint NOT NULL,
            hour timestamptz NOT NULL,
            outcome {_TEXT} NOT NULL,
            workspace_id bigint NOT NULL,
            source_id bigint NOT NULL,
            events bigint NOT NULL,
            payload_bytes bigint NOT NULL,
            CONSTRAINT pk_usage_hours PRIMARY KEY (project_id, source_key_id, hour, outcome)
        ) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
        -- What a project did in some hours; the primary key serves what a key did.
        CREATE INDEX ix_usage_hours_hour ON usage_hours (project_id, hour)""")


def downgrade() -> None:
    op.execute("DROP TABLE usage_hours, usage_outbox")
