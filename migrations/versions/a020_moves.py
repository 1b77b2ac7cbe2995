"""Workspaces that move to another cell: where they are going, whether they wait, and where they live since."""

from pathlib import Path

from alembic import op

revision = "a020"
down_revision = "a019"
branch_labels = None
depends_on = None

_FROZEN = Path(__file__).parents[1] / "sql"
_TEXT = 'text COLLATE "C"'


def upgrade() -> None:
    op.execute(f"""
        ALTER TABLE workspaces
            ADD COLUMN moving_to {_TEXT},
            ADD COLUMN frozen_at timestamptz,
            ADD COLUMN move_id {_TEXT},
            ADD COLUMN home {_TEXT}""")
    _apply("a020")


def downgrade() -> None:
    _apply("a006")
    op.execute("""
        ALTER TABLE workspaces
            DROP COLUMN moving_to, DROP COLUMN frozen_at, DROP COLUMN move_id, DROP COLUMN home""")


def _apply(revision: str) -> None:
    """Apply a frozen file as it stands: no driver looks for parameters in it."""
    statement = (_FROZEN / revision / "policies.sql").read_text()
    op.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})
