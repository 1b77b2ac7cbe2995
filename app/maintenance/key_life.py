"""Marks the source keys and management tokens that have passed their expiry, each with its entry in the trail.

Nobody waits for it: whether a credential opens anything is judged when it is used or shown. The mark is what makes the
entry come exactly once per expiry: it is the expiry itself and not the moment of marking, so it is the same whichever
worker wrote it and however late, and it speaks of that expiry alone. Whoever moves an expiry into the future need not
know of it for the next one to be marked again. When it was marked, the entry says.
"""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, text

from app.audit.entries import WORKER, Author, Mutation, expiry, record_all
from app.database.engine import Database, TenantScope
from app.maintenance.runs import Clock, Done, in_batches, never

# Short transactions: they hold the rows' locks for some milliseconds.
_BATCH_ROWS: Final = 500

# By ix_…_unmarked. Whatever moment a run is given, it marks nothing that PostgreSQL, which judges every use, does not
# take for over. SKIP LOCKED: workers share the work, and what an operator is just changing is left for the next run, so
# a run waits for nobody and can deadlock with nobody. A row is locked as it is then: what was revoked or prolonged a
# moment ago is not due any more. `updated_at` stays where it is: no operator has changed anything, and no If-Match
# should fail for it.
_MARK: Final = """
    WITH due AS (
        SELECT id, expired_at FROM {table}
        WHERE expires_at <= least(:now, now()) AND revoked_at IS NULL AND expired_at IS DISTINCT FROM expires_at
        ORDER BY expires_at LIMIT :rows FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE {table} AS credential SET expired_at = credential.expires_at
    FROM due WHERE credential.id = due.id
    RETURNING credential.workspace_id, {project_row} AS project_row, credential.public_id,
        due.expired_at AS marked_before, credential.expired_at
"""
# By the first word of the entry's action. A token belongs to the workspace as a whole, whatever projects it reaches.
_STATEMENTS: Final = {
    "source_key": text(_MARK.format(table="source_keys", project_row="credential.project_id")),
    "management_token": text(_MARK.format(table="management_tokens", project_row="NULL::bigint")),
}


def mark_expired_keys(
    database: Database, *, now: datetime, is_over: Clock = never, batch_rows: int = _BATCH_ROWS
) -> Done:
    """Mark the keys and tokens that have expired by `now`, each batch with its entries in one transaction."""

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
