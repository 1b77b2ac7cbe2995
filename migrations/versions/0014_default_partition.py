"""What a full default partition needs to be emptied beside ingest (app/maintenance/default_partition.py).

Its events are found by their receipt. And no partition is made beside one that is full: PostgreSQL would look through
all of it for each, with ingest shut out.
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_INDEX = "ix_events_default_received_at"
# As in 0013. New: locks are waited for as briefly as everywhere in upkeep, and a full default partition is left to the
# worker, who makes these partitions when it has emptied it. 16 MB are looked through in some milliseconds.
_MAKE_EVENT_PARTITIONS = """
    CREATE OR REPLACE FUNCTION make_event_partitions(first_day date, days integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET timezone = 'UTC' AS $$
    DECLARE
        day date;
        partition text;
        made integer := 0;
    BEGIN
        -- Two workers at once: the second waits here and then finds everything made.
        PERFORM pg_advisory_xact_lock(hashtextextended('make_event_partitions', 0));
        %CARE%
        FOR day IN SELECT first_day + n FROM generate_series(0, days - 1) AS n LOOP
            partition := 'events_' || to_char(day, 'YYYYMMDD');
            CONTINUE WHEN to_regclass(partition) IS NOT NULL;
            BEGIN
                EXECUTE format('CREATE TABLE %I (LIKE events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition);
                PERFORM wall_event_partition(partition::regclass);
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
_CARE = """
        PERFORM set_config('lock_timeout', '50ms', true);
        IF pg_relation_size('events_default') > 16 * 1024 * 1024 THEN
            RAISE WARNING 'no partition is made beside a full default partition';
            RETURN 0;
        END IF;
"""


def upgrade() -> None:
    op.execute(_MAKE_EVENT_PARTITIONS.replace("%CARE%", _CARE))
    # CONCURRENTLY, for it may be that today's events are written there. One that was cut off is in the way.
    with op.get_context().autocommit_block():
        op.execute("SET statement_timeout = 0")
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {_INDEX}")
        op.execute(f"CREATE INDEX CONCURRENTLY {_INDEX} ON events_default (received_at, event_uid)")


def downgrade() -> None:
    # It may bear another name by now, if the table is another one.
    op.execute("""
        DO $$
        DECLARE
            found regclass;
        BEGIN
            FOR found IN SELECT indexrelid FROM pg_index
                WHERE indrelid = 'events_default'::regclass AND NOT indisprimary LOOP
                EXECUTE format('DROP INDEX %s', found);
            END LOOP;
        END $$""")
    op.execute(_MAKE_EVENT_PARTITIONS.replace("%CARE%", ""))
