"""Events in daily partitions, the event ledger and the idempotency records: what one accepted event writes.

PostgreSQL's defaults vacuum a table when a fifth of it is dead. The ledger and the records lose and gain a few per cent
a day and grow large, so a fifth would be weeks of purged rows (docs/maintenance.md has the figures).
"""

from alembic import op

revision = "a002"
down_revision = "a001"
branch_labels = None
depends_on = None

_TEXT = 'text COLLATE "C"'
# Vacuum searches all indexes of a table for its dead rows: worth it by the hundred thousand.
_PURGED = """WITH (
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 100000,
    autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02,
    autovacuum_vacuum_cost_limit = 1000)"""


def upgrade() -> None:
    op.execute(f"""
        CREATE TABLE events (
            project_id bigint NOT NULL,
            received_at timestamptz NOT NULL,
            event_uid uuid NOT NULL,
            workspace_id bigint NOT NULL,
            environment_id bigint NOT NULL,
            source_id bigint NOT NULL,
            source_key_id bigint NOT NULL,
            event_id {_TEXT} NOT NULL,
            event_type {_TEXT} NOT NULL,
            severity {_TEXT} NOT NULL,
            occurred_at timestamptz NOT NULL,
            payload jsonb NOT NULL,
            is_occurred_at_far boolean NOT NULL DEFAULT false,
            CONSTRAINT pk_events PRIMARY KEY (project_id, received_at, event_uid),
            CONSTRAINT ck_events_severity CHECK (severity IN ('debug', 'info', 'warning', 'error', 'critical'))
        ) PARTITION BY RANGE (received_at);
        -- A missing partition never makes ingest fail. The index serves the worker, which empties the default one.
        CREATE TABLE events_default PARTITION OF events DEFAULT;
        CREATE INDEX ix_events_default_received_at ON events_default (received_at, event_uid)""")
    op.execute(f"""
        CREATE TABLE event_ledger (
            project_id bigint NOT NULL,
            source_id bigint NOT NULL,
            workspace_id bigint NOT NULL,
            event_id {_TEXT} NOT NULL,
            event_uid uuid NOT NULL,
            fingerprint bytea NOT NULL,
            received_at timestamptz NOT NULL,
            CONSTRAINT pk_event_ledger PRIMARY KEY (project_id, source_id, event_id)
        ) {_PURGED};
        -- Serves the purge.
        CREATE INDEX ix_event_ledger_received_at ON event_ledger (received_at)""")
    op.execute(f"""
        CREATE TABLE idempotency_records (
            project_id bigint NOT NULL,
            source_id bigint NOT NULL,
            workspace_id bigint NOT NULL,
            idempotency_key {_TEXT} NOT NULL,
            fingerprint bytea NOT NULL,
            event_uid uuid NOT NULL,
            response_status smallint NOT NULL,
            response_body {_TEXT} NOT NULL,
            created_at timestamptz NOT NULL,
            expires_at timestamptz NOT NULL,
            CONSTRAINT pk_idempotency_records PRIMARY KEY (project_id, source_id, idempotency_key)
        ) {_PURGED};
        -- Serves the purge.
        CREATE INDEX ix_idempotency_records_expires_at ON idempotency_records (expires_at)""")


def downgrade() -> None:
    op.execute("DROP TABLE idempotency_records, event_ledger, events")
