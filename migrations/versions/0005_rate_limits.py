"""Rate limits of single keys and workspaces; NULL is the installation's default.

The columns need no rewrite. The indexes are built under a lock that holds up changes of keys, not ingest, for the
moment that one look at each key takes; they stay small, because few keys have a limit of their own.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLES = ("source_keys", "workspaces")


def upgrade() -> None:
    for table in _TABLES:
        op.execute(f"""
            ALTER TABLE {table} ADD COLUMN events_per_second integer
                CONSTRAINT ck_{table}_events_per_second CHECK (events_per_second > 0)""")
        op.execute(f"CREATE INDEX ix_{table}_limited ON {table} (id) WHERE events_per_second IS NOT NULL")


def downgrade() -> None:
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} DROP COLUMN events_per_second")
