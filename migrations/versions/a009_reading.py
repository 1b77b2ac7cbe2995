"""What reading needs of what ingest writes: positions, counts by hour, type and severity, and a skip index of payloads.

docs/decisions/0023 says what each is for.
"""

from pathlib import Path

from alembic import op

revision = "a009"
down_revision = "a008"
branch_labels = None
depends_on = None

_FROZEN = Path(__file__).parents[1] / "sql"
_TEXT = 'text COLLATE "C"'
_WORKSPACE = "nullif(current_setting('lariba.workspace', true), '')::bigint"
_ALL_WORKSPACES = "coalesce(current_setting('lariba.all_workspaces', true) = 'on', false)"
_COLUMNS = """project_id, received_at, event_uid, workspace_id, environment_id, source_id, source_key_id, event_id,
            event_type, severity, occurred_at, payload, is_occurred_at_far"""


def upgrade() -> None:
    # It begins at 1, so that the first group finds a last value below its own. No cache: a session with some values in
    # store would write positions that readers have passed.
    op.execute("CREATE SEQUENCE event_positions; SELECT setval('event_positions', 1)")
    # Events from before get positions too, in no order among themselves.
    op.execute("ALTER TABLE events ADD COLUMN position bigint NOT NULL DEFAULT nextval('event_positions')")
    op.execute("ALTER SEQUENCE event_positions OWNED BY events.position")
    op.execute("CREATE INDEX ix_events_position ON events (project_id, position)")
    op.execute(f"""
        CREATE TABLE event_days (
            day date NOT NULL,
            first_position bigint NOT NULL,
            last_position bigint NOT NULL,
            CONSTRAINT pk_event_days PRIMARY KEY (day)
        );
        ALTER TABLE event_days ENABLE ROW LEVEL SECURITY;
        CREATE POLICY all_workspaces ON event_days USING ({_ALL_WORKSPACES})""")
    # Rewritten in place every few seconds, as in a001.
    op.execute(f"""
        CREATE TABLE event_hours (
            project_id bigint NOT NULL,
            hour timestamptz NOT NULL,
            source_key_id bigint NOT NULL,
            event_type {_TEXT} NOT NULL,
            severity {_TEXT} NOT NULL,
            workspace_id bigint NOT NULL,
            environment_id bigint NOT NULL,
            source_id bigint NOT NULL,
            events bigint NOT NULL,
            CONSTRAINT pk_event_hours PRIMARY KEY (project_id, hour, source_key_id, event_type, severity)
        ) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
        -- Serves what goes away with a day.
        CREATE INDEX ix_event_hours_hour ON event_hours (hour);
        ALTER TABLE event_hours ENABLE ROW LEVEL SECURITY;
        CREATE POLICY within_workspace ON event_hours USING (workspace_id = {_WORKSPACE} OR {_ALL_WORKSPACES});
        INSERT INTO event_hours
        SELECT project_id, date_trunc('hour', received_at, 'UTC'), source_key_id, event_type, severity, workspace_id,
            environment_id, source_id, count(*)
        FROM events GROUP BY 1, 2, 3, 4, 5, 6, 7, 8;
        ALTER TABLE usage_outbox ADD COLUMN environment_id bigint, ADD COLUMN event_type {_TEXT},
            ADD COLUMN severity {_TEXT}""")
    # Tokens are random numbers: an attempt to compress them costs more than it saves. A search asks for few of them.
    op.execute(f"""
        CREATE TABLE event_segments (
            project_id bigint NOT NULL,
            last_position bigint NOT NULL,
            first_position bigint NOT NULL,
            workspace_id bigint NOT NULL,
            begins_at timestamptz NOT NULL,
            ends_at timestamptz NOT NULL,
            events bigint NOT NULL,
            tokens integer[] NOT NULL,
            CONSTRAINT pk_event_segments PRIMARY KEY (project_id, last_position)
        );
        ALTER TABLE event_segments ALTER COLUMN tokens SET STORAGE EXTERNAL;
        CREATE INDEX ix_event_segments_tokens ON event_segments USING gin (tokens);
        -- Serves what goes away with a day.
        CREATE INDEX ix_event_segments_ends_at ON event_segments (ends_at);
        ALTER TABLE event_segments ENABLE ROW LEVEL SECURITY;
        CREATE POLICY within_workspace ON event_segments USING (workspace_id = {_WORKSPACE} OR {_ALL_WORKSPACES})""")
    # As in a005: below a policy only leakproof operators may be conditions of an index. The subselect is computed once
    # for each statement, and not for each row.
    op.execute("DROP VIEW readable_events")
    op.execute(f"""
        CREATE VIEW readable_events AS SELECT {_COLUMNS}, position FROM events
        WHERE workspace_id = (SELECT {_WORKSPACE});
        CREATE VIEW readable_segments AS
        SELECT project_id, last_position, first_position, workspace_id, begins_at, ends_at, events, tokens
        FROM event_segments WHERE workspace_id = (SELECT {_WORKSPACE})""")
    for name in ("store_events.sql", "event_text.sql", "feed.sql", "event_segments.sql"):
        _apply("a009", name)


def downgrade() -> None:
    op.execute("""
        DROP FUNCTION build_event_segment(bigint, integer), event_token(text, bigint), event_days_after(bigint),
            event_horizon(bigint), event_text(jsonb);
        DROP VIEW readable_segments, readable_events;
        DROP TABLE event_segments, event_hours, event_days;
        ALTER TABLE usage_outbox DROP COLUMN environment_id, DROP COLUMN event_type, DROP COLUMN severity""")
    op.execute("ALTER TABLE events DROP COLUMN position")
    op.execute(f"CREATE VIEW readable_events AS SELECT {_COLUMNS} FROM events WHERE workspace_id = {_WORKSPACE}")
    _apply("a006", "store_events.sql")


def _apply(revision: str, name: str) -> None:
    """Apply a frozen file as it stands: no driver looks for parameters in it."""
    statement = (_FROZEN / revision / name).read_text()
    op.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})
