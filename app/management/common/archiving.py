"""What does not come back with what is restored: the keys below it.

While something is archived, no key below it stores. Whoever restores it months later would let keys in again that
nobody remembers; so they are revoked in the transaction that restores, and what comes back is never a key.
"""

from sqlalchemy import ColumnElement, func, update
from sqlalchemy.orm import Session

from app.audit.entries import Change, record_all
from app.management.common.mutations import moment, next_revision
from app.management.common.operators import Operator
from app.models import SourceKey


def revoke_keys_below(session: Session, operator: Operator, is_below: ColumnElement[bool]) -> None:
    """Revoke all live keys that lie below what is being restored, each with its entry in the trail.

    No barrier is needed: they store nothing until this commits, nor afterwards. Few statements, however many keys.
    """
    at = moment(session)
    are_live = (SourceKey.revoked_at.is_(None), func.coalesce(SourceKey.expires_at > at, True), is_below)
    # In the order in which the worker takes them that notes their use (app/maintenance/usage.py). An UPDATE takes them
    # as it finds them, and the two could wait for each other in a circle.
    in_order = SourceKey.within(operator.workspace_id).where(*are_live).order_by(SourceKey.id)
    locking = in_order.with_only_columns(SourceKey.updated_at).with_for_update(key_share=True)
    revisions = session.scalars(locking).all()
    if not revisions:
        return
    ended = session.execute(
        update(SourceKey)
        .where(SourceKey.workspace_id == operator.workspace_id, *are_live)
        .values(revoked_at=at, updated_at=next_revision(session, max(revisions)))
        .returning(SourceKey.public_id, SourceKey.project_id)
        .execution_options(synchronize_session=False)
    ).all()
    changes = (
        Change(
            action="source_key.revoke",
            object_id=key.public_id,
            project_row=key.project_id,
            before={"revoked_at": None},
            after={"revoked_at": at},
        )
        for key in ended
    )
    record_all(session, ((operator.author, change) for change in changes))
