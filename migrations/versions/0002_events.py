"""Events in daily partitions, the event ledger and the idempotency records: what one accepted event writes."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# The app's role owns no table, so it makes partitions through this function, which runs with its owner's rights and
# can do nothing else. A partition is filled first and attached afterwards: ATTACH takes a lock on `events` that
# lets inserts go on, while CREATE TABLE ... PARTITION OF would stop them. Days are days in UTC, whatever the session
# or the server believes. Returns how many partitions it made; a day that cannot be attached, because the default
# partition already holds rows of it, is left to the default partition.
_MAKE_EVENT_PARTITIONS = """
    CREATE FUNCTION make_event_partitions(first_day date, days integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET timezone = 'UTC' AS $$
    DECLARE
        day date;
        partition text;
        made integer := 0;
    BEGIN
        -- Two workers at once: the second waits here and then finds everything made.
        PERFORM pg_advisory_xact_lock(hashtextextended('make_event_partitions', 0));
        FOR day IN SELECT first_day + n FROM generate_series(0, days - 1) AS n LOOP
            partition := 'events_' || to_char(day, 'YYYYMMDD');
            CONTINUE WHEN to_regclass(partition) IS NOT NULL;
            BEGIN
                EXECUTE format('CREATE TABLE %I (LIKE events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition);
                EXECUTE format('ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                               partition, day::timestamptz, (day + 1)::timestamptz);
                made := made + 1;
            EXCEPTION WHEN check_violation THEN
                RAISE WARNING 'the default partition holds events of %, which stay there', day;
            END;
        END LOOP;
        RETURN made;
    END $$
"""


def upgrade() -> None:
    op.execute("""
        CREATE TABLE events (
            project_id bigint NOT NULL,
            received_at timestamptz NOT NULL,
            event_uid uuid NOT NULL,
            workspace_id bigint NOT NULL,
            environment_id bigint NOT NULL,
            source_id bigint NOT NULL,
            source_key_id bigint NOT NULL,
            event_id text NOT NULL,
            event_type text NOT NULL,
            severity text NOT NULL,
            occurred_at timestamptz NOT NULL,
            payload jsonb NOT NULL,
            CONSTRAINT pk_events PRIMARY KEY (project_id, received_at, event_uid),
            CONSTRAINT ck_events_severity CHECK (
                severity IN ('debug', 'info', 'warning', 'error', 'critical'))
        ) PARTITION BY RANGE (received_at)""")
    # The safety net: a missing partition never makes ingest fail.
    op.execute("CREATE TABLE events_default PARTITION OF events DEFAULT")
    op.execute(_MAKE_EVENT_PARTITIONS)
    op.execute("REVOKE ALL ON FUNCTION make_event_partitions(date, integer) FROM PUBLIC")
    op.execute("SELECT make_event_partitions((now() AT TIME ZONE 'UTC')::date, 8)")
    op.execute("""
        CREATE TABLE event_ledger (
            project_id bigint NOT NULL,
            source_id bigint NOT NULL,
            event_id text NOT NULL,
            event_uid uuid NOT NULL,
            fingerprint bytea NOT NULL,
            received_at timestamptz NOT NULL,
            CONSTRAINT pk_event_ledger PRIMARY KEY (project_id, source_id, event_id)
        )""")
    op.execute("""
        CREATE TABLE idempotency_records (
            project_id bigint NOT NULL,
            source_id bigint NOT NULL,
            idempotency_key text NOT NULL,
            fingerprint bytea NOT NULL,
            event_uid uuid NOT NULL,
            response_status smallint NOT NULL,
            response_body text NOT NULL,
            created_at timestamptz NOT NULL,
            expires_at timestamptz NOT NULL,
            CONSTRAINT pk_idempotency_records PRIMARY KEY (project_id, source_id, idempotency_key)
        )""")
    op.execute("CREATE INDEX ix_idempotency_records_expires_at ON idempotency_records (expires_at)")


def downgrade() -> None:
    op.execute("DROP TABLE idempotency_records")
    op.execute("DROP TABLE event_ledger")
    op.execute("DROP FUNCTION make_event_partitions(date, integer)")
    op.execute("DROP TABLE events")
