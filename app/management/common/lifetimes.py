"""Whether a source key or management token is active, and for how long: the same words for both.

PostgreSQL's clock decides, at the moment of the query, as it does when a credential is used. The worker's mark
(`expired_at`) is not read here: it comes late.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from sqlalchemy import ColumnElement, and_, func, or_

from app.models import ManagementToken, SourceKey

DAYS_MAX: Final = 3_650

Credential = type[SourceKey] | type[ManagementToken]


class CredentialState(StrEnum):
    """Whether a credential is accepted, and if not, why."""

    ACTIVE = "active"
    EXPIRED = "expired"
    """Past its expiry and not revoked."""
    REVOKED = "revoked"


def state_at(moment: datetime, *, expires_at: datetime | None, revoked_at: datetime | None) -> CredentialState:
    """The state of a credential. At the moment of its expiry it is expired, as for ingest's SQL."""
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
    """It is active now, and expires within so many days."""
    return and_(is_in(CredentialState.ACTIVE, model), model.expires_at <= func.now() + timedelta(days=days))


def is_unused_for(days: int, model: Credential) -> ColumnElement[bool]:
    """Not used for so many days; one that was never used counts from its issue."""
    return func.coalesce(model.last_used_at, model.created_at) <= func.now() - timedelta(days=days)
