"""The stored functions, from the frozen copies in migrations/sql/a006 (docs/decisions/0022), and today's partitions."""

from pathlib import Path

from alembic import op

revision = "a006"
down_revision = "a005"
branch_labels = None
depends_on = None

_FROZEN = Path(__file__).parents[1] / "sql" / "a006"
_FILES = ("policies.sql", "store_events.sql", "partitions.sql", "report_roles.sql")


def upgrade() -> None:
    for name in _FILES:
        # As it stands: no driver looks for parameters in it.
        op.get_bind().exec_driver_sql((_FROZEN / name).read_text(), execution_options={"no_parameters": True})
    op.execute("SELECT copy_event_policies(inhrelid) FROM pg_inherits WHERE inhparent = 'events'::regclass")
    op.execute("SELECT make_event_partitions((now() AT TIME ZONE 'UTC')::date, 8)")


def downgrade() -> None:
    op.execute("""
        DROP FUNCTION
            admit_report_role(name, text),
            make_event_partitions(date, integer),
            copy_event_policies(regclass),
            store_events(jsonb, jsonb, bigint[], interval, text, boolean),
            judge_items(jsonb, jsonb, timestamptz, bigint[]),
            is_origin_allowed(text),
            refuse_event_type(text[], text),
            refuse_client_origin(text[], text[], text, text),
            judge_callers(jsonb, timestamptz, bigint[])""")
