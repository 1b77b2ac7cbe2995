"""Whether the caller's token is still valid: checked in the transaction that acts, not only when the request came in.

Between authentication and commit a token can be revoked. Without this check, a stolen token could issue itself a
successor that appears after its revocation has returned, when no operator looks for it any more.

A mutation checks as its last act before the commit. So a revocation waits for commits alone, and never for what a
mutation of that token waits for itself; a mutation that comes later finds the token revoked and is rolled back.
"""

from typing import Final

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.cells.directory import MOVING, wrong_cell
from app.database.advisory_locks import exclude_token, share_residence, share_token
from app.errors import InvalidManagementToken, StorageUnavailable
from app.management.common.operators import Operator

# By the clock and not by now(), which stands still at the beginning of the transaction.
_IS_VALID: Final = text("""
    SELECT home FROM management_tokens AS token JOIN workspaces AS workspace ON workspace.id = workspace_id
    WHERE token.public_id = :public_id AND workspace_id = :workspace_id
        AND revoked_at IS NULL
        AND (expires_at IS NULL OR expires_at > clock_timestamp() AND expired_at IS DISTINCT FROM expires_at)
""")
_RESIDENCE: Final = text("SELECT home, frozen_at FROM workspaces WHERE id = :workspace_id")
_IS_HELD: Final = "token_validity_is_held"


def check_validity(session: Session, operator: Operator) -> None:
    """Raises InvalidManagementToken if the caller's token has been revoked or has expired since it came in.

    And WrongCell if its workspace has moved away meanwhile.
    """
    if operator.token_public_id is None:
        return
    named = {"public_id": operator.token_public_id, "workspace_id": operator.workspace_id}
    row = session.execute(_IS_VALID, named).one_or_none()
    if row is None:
        raise InvalidManagementToken
    if row.home is not None:
        raise wrong_cell(row.home)


def hold_validity(session: Session, operator: Operator) -> None:
    """As check_validity(), for a mutation that is about to commit: a revocation waits for that commit."""
    if operator.token_public_id is None or _IS_HELD in session.info:
        return
    share_token(session, operator.token_public_id)
    check_validity(session, operator)


def hold_validity_to_revoke(session: Session, operator: Operator, token: str) -> None:
    """As hold_validity(), for a mutation that revokes the token with the public id `token`, perhaps the caller's own.

    It waits for the commits of that token that are under way. The locks are taken in one order, so that of two tokens
    which revoke each other one is first, and the other one finds itself revoked.
    """
    for name in sorted({token, operator.token_public_id or token}):
        if name == token:
            exclude_token(session, name)
        else:
            share_token(session, name)
    check_validity(session, operator)
    session.info[_IS_HELD] = True  # until the commit, by then the caller may have revoked its own token


def hold_residence(session: Session, workspace_id: int) -> None:
    """The workspace does not leave this cell until the commit, which must be next.

    Raises WrongCell if it has left, and StorageUnavailable during the last part of its move.
    """
    share_residence(session, workspace_id)
    row = session.execute(_RESIDENCE, {"workspace_id": workspace_id}).one()
    if row.home is not None:
        raise wrong_cell(row.home)
    if row.frozen_at is not None:
        raise StorageUnavailable(MOVING)
