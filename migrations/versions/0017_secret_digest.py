"""The keyed digest of a whole credential beside the argon2 hash of its secret.

A row of before has none: its next use runs argon2 once and writes it.
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE source_keys ADD COLUMN secret_digest bytea")
    op.execute("ALTER TABLE management_tokens ADD COLUMN secret_digest bytea")


def downgrade() -> None:
    op.execute("ALTER TABLE management_tokens DROP COLUMN secret_digest")
    op.execute("ALTER TABLE source_keys DROP COLUMN secret_digest")
