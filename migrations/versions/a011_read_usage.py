"""Usage of reading: what each management token read, by the hour, and which flushes have been counted."""

from alembic import op

revision = "a011"
down_revision = "a010"
branch_labels = None
depends_on = None

_TEXT = 'text COLLATE "C"'
_WORKSPACE = "nullif(current_setting('lariba.workspace', true), '')::bigint"
_ALL_WORKSPACES = "coalesce(current_setting('lariba.all_workspaces', true) = 'on', false)"


def upgrade() -> None:
    # Rewritten in place every few seconds, as in a001.
    op.execute(f"""
        CREATE TABLE read_hours (
            workspace_id bigint NOT NULL,
            token_id bigint NOT NULL,
            hour timestamptz NOT NULL,
            project_id bigint NOT NULL,
            operation {_TEXT} NOT NULL,
            outcome {_TEXT} NOT NULL,
            requests bigint NOT NULL,
            events bigint NOT NULL,
            body_bytes bigint NOT NULL,
            CONSTRAINT pk_read_hours PRIMARY KEY (workspace_id, token_id, hour, project_id, operation, outcome)
        ) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
        -- What a workspace read in some hours; the primary key serves what a token read.
        CREATE INDEX ix_read_hours_hour ON read_hours (workspace_id, hour);
        ALTER TABLE read_hours ENABLE ROW LEVEL SECURITY;
        CREATE POLICY within_workspace ON read_hours USING (workspace_id = {_WORKSPACE} OR {_ALL_WORKSPACES})""")
    op.execute(f"""
        CREATE TABLE read_flushes (
            process_uid uuid NOT NULL,
            flush_uid uuid NOT NULL,
            flushed_at timestamptz NOT NULL,
            CONSTRAINT pk_read_flushes PRIMARY KEY (process_uid)
        ) WITH (fillfactor = 50);
        ALTER TABLE read_flushes ENABLE ROW LEVEL SECURITY;
        CREATE POLICY all_workspaces ON read_flushes USING ({_ALL_WORKSPACES})""")


def downgrade() -> None:
    op.execute("DROP TABLE read_flushes, read_hours")
