"""What upkeep needs of the hot tables: old event ids are found by an index, and vacuum comes by number of rows.

PostgreSQL's defaults vacuum a table when a fifth of it is dead. These tables lose and gain a few per cent a day and
grow large, so a fifth would be weeks of purged rows; and the outbox is emptied every five seconds, so a fifth of it is
nothing and everything. docs/maintenance.md says what was measured.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_INDEX = "ix_event_ledger_received_at"
# Dead rows are searched for in all of a table's indexes: by the hundred thousand it is worth it.
_PURGED = {
    "autovacuum_vacuum_scale_factor": "0.01",
    "autovacuum_vacuum_threshold": "100000",
    "autovacuum_vacuum_insert_scale_factor": "0.05",
    "autovacuum_analyze_scale_factor": "0.02",
    "autovacuum_vacuum_cost_limit": "1000",
}
# Small, and each fold reads it from its beginning: what is dead there is read again and again until vacuum takes it.
_EMPTIED = {
    "autovacuum_vacuum_scale_factor": "0",
    "autovacuum_vacuum_threshold": "20000",
    "autovacuum_vacuum_insert_scale_factor": "0",
    "autovacuum_vacuum_insert_threshold": "100000",
    "autovacuum_analyze_scale_factor": "0",
    "autovacuum_analyze_threshold": "100000",
    "autovacuum_vacuum_cost_delay": "0",
}
# Rewritten in place every few seconds: with room on its page a row's new version touches no index.
_REWRITTEN = {"fillfactor": "70", "autovacuum_vacuum_scale_factor": "0.05"}
_TABLES = {
    "idempotency_records": _PURGED,
    "event_ledger": _PURGED,
    "usage_outbox": _EMPTIED,
    "usage_hours": _REWRITTEN,
    "source_keys": _REWRITTEN,
    "sources": _REWRITTEN,
    "maintenance_tasks": _REWRITTEN,
}


def upgrade() -> None:
    # CONCURRENTLY, for the ledger is written by every event. One that was cut off is of no use, and in the way.
    with op.get_context().autocommit_block():
        op.execute("SET statement_timeout = 0")
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {_INDEX}")
        op.execute(f"CREATE INDEX CONCURRENTLY {_INDEX} ON event_ledger (received_at)")
    for table, parameters in _TABLES.items():
        op.execute(f"ALTER TABLE {table} SET ({', '.join(f'{name} = {value}' for name, value in parameters.items())})")


def downgrade() -> None:
    for table, parameters in _TABLES.items():
        op.execute(f"ALTER TABLE {table} RESET ({', '.join(parameters)})")
    op.execute(f"DROP INDEX {_INDEX}")
