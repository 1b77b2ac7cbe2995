"""All keys of a workspace at once, to find those that are stale."""

from dataclasses import asdict, dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, func, or_

from app.database import Database
from app.management.keys import KeyFacts, facts_of, shown_keys
from app.management.operators import Operator
from app.management.pages import Listing, Page, PageRequest
from app.models import Project, Source, SourceKey

UNUSED_DAYS_MAX: Final = 3_650


class KeyState(StrEnum):
    """Whether a key opens anything, and if not, why."""

    ACTIVE = "active"
    EXPIRED = "expired"
    """Over without having been revoked."""
    REVOKED = "revoked"


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyFilter:
    """Which keys a list shows; None shows all."""

    project_id: str | None = None
    source_id: str | None = None
    state: KeyState | None = None
    never_used: bool | None = None
    unused_for_days: int | None = None


def list_keys(database: Database, operator: Operator, only: KeyFilter, request: PageRequest) -> Page[KeyFacts]:
    """The workspace's keys, as far as the filter lets them through."""
    listing = Listing(SourceKey, operator.workspace_id, f"keys {asdict(only)}", _filtered(operator, only), facts_of)
    with database.transaction(operator.workspace_id) as session:
        return listing.page(session, request)


def _filtered(operator: Operator, only: KeyFilter) -> Select[Any]:
    query = shown_keys(operator)
    if only.project_id is not None:
        query = query.where(Project.public_id == only.project_id)
    if only.source_id is not None:
        query = query.where(Source.public_id == only.source_id)
    if only.state is not None:
        query = query.where(_is_in(only.state))
    if only.never_used is not None:
        is_unused = SourceKey.last_used_at.is_(None)
        query = query.where(is_unused if only.never_used else ~is_unused)
    if only.unused_for_days is not None:
        last_used_at = func.coalesce(SourceKey.last_used_at, SourceKey.created_at)
        query = query.where(last_used_at <= func.now() - timedelta(days=only.unused_for_days))
    return query


def _is_in(state: KeyState) -> ColumnElement[bool]:
    if state is KeyState.REVOKED:
        return SourceKey.revoked_at.is_not(None)
    # As judge_callers has it: at the moment of its expiry a key is over.
    is_over = SourceKey.expires_at <= func.now()
    if state is KeyState.EXPIRED:
        return and_(SourceKey.revoked_at.is_(None), is_over)
    return and_(SourceKey.revoked_at.is_(None), or_(SourceKey.expires_at.is_(None), ~is_over))
