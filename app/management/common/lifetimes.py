"""Whether a source key or management token opens anything, and for how long: the same words for both, by one clock.

All of it is judged by PostgreSQL's clock at the moment of asking, as the use of a credential is. The worker's mark
(`expired_at`) is never asked: it comes late.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from sqlalchemy import ColumnElement, and_, func, or_

from app.models import ManagementToken, SourceKey

DAYS_MAX: Final = 3_650

Credential = type[SourceKey] | type[ManagementToken]


class CredentialState(StrEnum):
    """Whether a credential opens anything, and if not, why."""

    ACTIVE = "active"
    EXPIRED = "expired"
    """Over without having been revoked."""
    REVOKED = "revoked"


def state_at(moment: datetime, *, expires_at: datetime | None, revoked_at: datetime | None) -> CredentialState:
    """The state of a credential. As judge_callers has it, it is over at the moment of its expiry."""
    if revoked_at is not None:
        return CredentialState.REVOKED
    if expires_at is not None and expires_at <= moment:
        return CredentialState.EXPIRED
    return CredentialState.ACTIVE


def is_in(state: CredentialState, model: Credential) -> ColumnElement[bool]:
    """As state_at(), for a query."""
    if state is CredentialState.REVOKED:
        return model.revoked_at.is_not(None)
    is_over = model.expires_at <= func.now()
    if state is CredentialState.EXPIRED:
        return and_(model.revoked_at.is_(None), is_over)
    return and_(model.revoked_at.is_(None), or_(model.expires_at.is_(None), ~is_over))


def expires_within(days: int, model: Credential) -> ColumnElement[bool]:
    """It opens something now, and will not in so many days unless an operator sees to it."""
    return and_(is_in(CredentialState.ACTIVE, model), model.expires_at <= func.now() + timedelta(days=days))


def is_unused_for(days: int, model: Credential) -> ColumnElement[bool]:
    """One that was never used counts as unused since it was issued."""
    return func.coalesce(model.last_used_at, model.created_at) <= func.now() - timedelta(days=days)
