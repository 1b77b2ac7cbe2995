"""Archives and restores what has keys below it: a project, an environment, a source.

While it is archived, no key below it stores an event. A restoration, perhaps months later, would let keys in again that
are forgotten by then; so it revokes them in its transaction.
"""

from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, Select, func
from sqlalchemy import update as update_rows
from sqlalchemy.orm import Session

from app.audit.entries import Mutation, record_all
from app.database.engine import Database
from app.management.common.etags import Target
from app.management.common.lookup import find_behind_barrier, find_to_change
from app.management.common.mutations import moment, mutation, next_updated_at, update
from app.management.common.operators import Operator
from app.models import SourceKey


def archive(database: Database, operator: Operator, live: Select[Any], target: Target, action: str) -> None:
    """Take one of the `live` objects out of use: after this has returned, no key below it stores."""
    with mutation(database, operator) as session:
        row, *_ = find_behind_barrier(session, operator, live, target)
        update(session, operator, row, action, {"archived_at": moment(session)})


def restore(
    database: Database,
    operator: Operator,
    within: Select[Any],
    target: Target,
    action: str,
    keys_below: Callable[[Any], ColumnElement[bool]],
) -> tuple[Any, ...]:
    """Take an object back into use, without the keys below it; does nothing to a live one. Returns its row of `within`.

    Raises Conflict if its name is taken.
    """
    with mutation(database, operator) as session:
        row, *parents = find_to_change(session, operator, within, target)
        if row.archived_at is not None:
            _revoke_keys(session, operator, keys_below(row))
        update(session, operator, row, action, {"archived_at": None})
        return row, *parents


def _revoke_keys(session: Session, operator: Operator, is_below: ColumnElement[bool]) -> None:
    """Revoke all live keys below what is restored, each with its audit entry, in few statements however many keys.

    No barrier is needed: they store nothing until this commits, nor afterwards.
    """
    at = moment(session)
    are_live = (SourceKey.revoked_at.is_(None), func.coalesce(SourceKey.expires_at > at, True), is_below)
    # Locked in the order in which the worker locks keys to note their use (app/maintenance/usage.py). An UPDATE locks
    # them as it finds them, and the two could wait for each other in a circle.
    in_order = SourceKey.within(operator.workspace_id).where(*are_live).order_by(SourceKey.id)
    locking = in_order.with_only_columns(SourceKey.updated_at).with_for_update(key_share=True)
    before = session.scalars(locking).all()
    if not before:
        return
    revoked = session.execute(
        update_rows(SourceKey)
        .where(SourceKey.workspace_id == operator.workspace_id, *are_live)
        .values(revoked_at=at, updated_at=next_updated_at(session, max(before)))
        .returning(SourceKey.public_id, SourceKey.project_id)
        .execution_options(synchronize_session=False)
    ).all()
    mutations = (
        Mutation(
            action="source_key.revoke",
            object_id=key.public_id,
            project_row=key.project_id,
            before={"revoked_at": None},
            after={"revoked_at": at},
        )
        for key in revoked
    )
    record_all(session, ((operator.author, each) for each in mutations))
