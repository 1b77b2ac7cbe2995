"""What does not come back with what is restored: the keys below it.

While something is archived, no key below it stores. Whoever restores it months later would let keys in again that
nobody remembers; so they are revoked in the transaction that restores, and what comes back is never a key.
"""

from sqlalchemy import ColumnElement, func, update
from sqlalchemy.orm import Session

from app.audit import Change, record_all
from app.management.changes import moment, next_revision
from app.management.operators import Operator
from app.models import SourceKey


def revoke_keys_below(session: Session, operator: Operator, is_below: ColumnElement[bool]) -> None:
    """Revoke all live keys that lie below what is being restored, each with its entry in the trail.

    No barrier is needed: they store nothing until this commits, nor afterwards. Few statements, however many keys.
    """
    at = moment(session)
    ended = session.execute(
        update(SourceKey)
        .where(
            SourceKey.workspace_id == operator.workspace_id,
            SourceKey.revoked_at.is_(None),
            func.coalesce(SourceKey.expires_at > at, True),
            is_below,
        )
        .values(revoked_at=at, updated_at=next_revision(SourceKey))
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
