"""Whether a caller who was let in may still act: asked in the transaction that acts, not only at the door.

Between the door and the commit a token can be revoked. Without this, a stolen token could issue itself a successor
that appears after its revocation has answered, where nobody looks for it any more.
"""

from typing import Final

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.errors import InvalidManagementToken
from app.management.operators import Operator

_STANDS: Final = """
    SELECT 1 FROM management_tokens
    WHERE public_id = :public_id AND workspace_id = :workspace_id
        AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
"""
_CHECK: Final = text(_STANDS)
# SHARE is what a revocation's UPDATE has to wait for, and what waits for it; of two changes neither waits.
_HOLD: Final = text(f"{_STANDS} FOR SHARE")


def check_standing(session: Session, operator: Operator) -> None:
    """Raises InvalidManagementToken if the caller's token has been revoked or has expired since it came in."""
    _look(session, operator, is_held=False)


def hold_standing(session: Session, operator: Operator) -> None:
    """As check_standing(), for a change: a revocation waits until it is committed, and then nothing follows."""
    _look(session, operator, is_held=True)


def _look(session: Session, operator: Operator, *, is_held: bool) -> None:
    if operator.token_public_id is None:
        return
    named = {"public_id": operator.token_public_id, "workspace_id": operator.workspace_id}
    if session.execute(_HOLD if is_held else _CHECK, named).one_or_none() is None:
        raise InvalidManagementToken
