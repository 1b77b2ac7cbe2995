"""Marks the source keys and management tokens that have expired, each with its audit entry.

A late mark changes no answer: validity is judged when a credential is used or shown. The mark makes the audit entry
come exactly once per expiry: its value is the expiry itself and not the moment of marking, so it is the same for every
worker, and an expiry that is moved is marked again without any change elsewhere.
"""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, text

from app.audit.entries import WORKER, Author, Mutation, expiry, record_all
from app.database.engine import Database, TenantScope
from app.maintenance.task import StopCheck, TaskResult, in_batches, never

# Short transactions: row locks are held for some milliseconds.
_BATCH_ROWS: Final = 500

# By ix_…_unmarked. least(): PostgreSQL's clock judges every use, so nothing is marked before that clock has reached its
# expiry. SKIP LOCKED: workers share the work, and a row that an operator is changing is left for the next run, so a run
# waits for no lock and cannot deadlock. FOR UPDATE rechecks the condition: a credential that was just revoked or
# prolonged is not due. `updated_at` is unchanged, so that no If-Match fails. What has moved is marked in its new cell.
_MARK: Final = """
    WITH due AS (
        SELECT id, expired_at FROM {table}
        WHERE expires_at <= least(:now, now()) AND revoked_at IS NULL AND expired_at IS DISTINCT FROM expires_at
            AND workspace_id NOT IN (SELECT id FROM workspaces WHERE home IS NOT NULL)
        ORDER BY expires_at LIMIT :rows FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE {table} AS credential SET expired_at = credential.expires_at
    FROM due WHERE credential.id = due.id
    RETURNING credential.workspace_id, {project_row} AS project_row, credential.public_id,
        due.expired_at AS marked_before, credential.expired_at
"""
# By the object type of the audit action. A token belongs to the workspace and not to one project.
_STATEMENTS: Final = {
    "source_key": text(_MARK.format(table="source_keys", project_row="credential.project_id")),
    "management_token": text(_MARK.format(table="management_tokens", project_row="NULL::bigint")),
}


def mark_expired_keys(
    database: Database, *, now: datetime, is_over: StopCheck = never, batch_rows: int = _BATCH_ROWS
) -> TaskResult:
    """Mark the keys and tokens that have expired by `now`, each batch with its audit entries in one transaction."""

    def mark_batch() -> int:
        rows = 0
        with database.transaction(TenantScope.ALL) as session:
            for kind, statement in _STATEMENTS.items():
                marked = session.execute(statement, {"now": now, "rows": batch_rows - rows}).all()
                record_all(session, (_entry(kind, row) for row in marked))
                rows += len(marked)
        return rows

    return in_batches(mark_batch, batch_rows, is_over)


def _entry(kind: str, row: Row[Any]) -> tuple[Author, Mutation]:
    change = expiry(kind, row.public_id, row.project_row, marked_before=row.marked_before, expired_at=row.expired_at)
    return Author(workspace_id=row.workspace_id, actor=WORKER), change
