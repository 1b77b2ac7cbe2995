"""Segments know the kind of each event, which is its type, severity, source, key and environment (docs/decisions/0023).

All are built anew, which takes the worker some minutes for ten million events; meanwhile searches read in order. Their
tokens have 25 bits now, so that the index on them takes a third.
"""

from pathlib import Path

from alembic import op

revision = "a015"
down_revision = "a014"
branch_labels = None
depends_on = None

_FROZEN = Path(__file__).parents[1] / "sql"
_TEXTS = 'text[] COLLATE "C"'
_WORKSPACE = "nullif(current_setting('lariba.workspace', true), '')::bigint"
_KINDS = "kind_types, kind_severities, kind_sources, kind_keys, kind_environments, kind_ends, event_positions"


def upgrade() -> None:
    _forget_segments()
    op.execute(f"""
        ALTER TABLE event_segments
            ADD COLUMN kind_types {_TEXTS} NOT NULL,
            ADD COLUMN kind_severities {_TEXTS} NOT NULL,
            ADD COLUMN kind_sources bigint[] NOT NULL,
            ADD COLUMN kind_keys bigint[] NOT NULL,
            ADD COLUMN kind_environments bigint[] NOT NULL,
            ADD COLUMN kind_ends integer[] NOT NULL,
            ADD COLUMN event_positions bigint[] NOT NULL""")
    _show(f", {_KINDS}")
    _apply("a015")


def downgrade() -> None:
    _forget_segments()
    op.execute("DROP VIEW readable_segments")
    _show("")
    op.execute("ALTER TABLE event_segments " + ", ".join(f"DROP COLUMN {name}" for name in _KINDS.split(", ")))
    _apply("a009")


def _forget_segments() -> None:
    # Without the mark of a run that had no more to do, the worker considers all projects, however old their events are.
    op.execute("TRUNCATE event_segments; DELETE FROM maintenance_tasks WHERE name = 'build_event_segments'")


def _show(columns: str) -> None:
    # Columns are added to the view that is there: to a new one the app's role has no right before the last migration.
    op.execute(f"""
        CREATE OR REPLACE VIEW readable_segments AS
        SELECT project_id, last_position, first_position, workspace_id, begins_at, ends_at, events, tokens{columns}
        FROM event_segments WHERE workspace_id = (SELECT {_WORKSPACE})""")


def _apply(revision: str) -> None:
    """Apply a frozen file as it stands: no driver looks for parameters in it."""
    statement = (_FROZEN / revision / "event_segments.sql").read_text()
    op.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})
