"""The stored functions, from the frozen copies in migrations/sql/0006 (docs/decisions/0022), and today's partitions."""

from pathlib import Path

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_FROZEN = Path(__file__).parents[1] / "sql" / "0006"
_FILES = ("policies.sql", "store_events.sql", "partitions.sql", "report_roles.sql")


def upgrade() -> None:
    for name in _FILES:
        # As it stands: no driver looks for parameters in it.
        op.get_bind().exec_driver_sql((_FROZEN / name).read_text(), execution_options={"no_parameters": True})
    op.execute("SELECT copy_event_policies(inhrelid) FROM pg_inherits WHERE inhparent = 'events'::regclass")
    op.execute("SELECT make_event_partitions((now() AT TIME ZONE 'UTC')::date, 8)")


def downgrade() -> None:
    op.execute("""
        DROP FUNCTION admit_report_role, make_event_partitions, copy_event_policies, store_events, judge_items,
            is_origin_allowed, refuse_event_type, refuse_client_origin, judge_callers""")
