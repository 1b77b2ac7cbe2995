"""All keys of a workspace at once, to find those that are stale and those that end soon."""

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Select

from app.database.engine import Database
from app.management.common.lifetimes import CredentialState, expires_within, is_in, is_unused_for
from app.management.common.operators import Operator
from app.management.common.paging import Listing, Page, PageRequest
from app.management.keys.domain import KeyView, has_successor, shown_keys, view_of_key
from app.models import Project, Source, SourceKey


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyFilter:
    """Which keys a list shows; None shows all."""

    project_id: str | None = None
    source_id: str | None = None
    state: CredentialState | None = None
    never_used: bool | None = None
    unused_for_days: int | None = None
    expires_within_days: int | None = None


def list_keys(database: Database, operator: Operator, only: KeyFilter, request: PageRequest) -> Page[KeyView]:
    """The workspace's keys, as far as the filter lets them through.

    Newest first, also those that end soon: an expiry can be moved between two pages, and a list in its order would then
    repeat a key or hide one, which no list of ours does. What ends within days is few, and sorted by whoever reads it.
    """
    listing = Listing(SourceKey, operator.workspace_id, f"keys {asdict(only)}", _filtered(operator, only), view_of_key)
    with database.transaction(operator.workspace_id) as session:
        return listing.page(session, request)


def _filtered(operator: Operator, only: KeyFilter) -> Select[Any]:
    query = shown_keys(operator)
    if only.project_id is not None:
        query = query.where(Project.public_id == only.project_id)
    if only.source_id is not None:
        query = query.where(Source.public_id == only.source_id)
    if only.state is not None:
        query = query.where(is_in(only.state, SourceKey))
    if only.never_used is not None:
        is_unused = SourceKey.last_used_at.is_(None)
        query = query.where(is_unused if only.never_used else ~is_unused)
    if only.unused_for_days is not None:
        query = query.where(is_unused_for(only.unused_for_days, SourceKey))
    if only.expires_within_days is not None:
        # One that was rotated ends as it should: what is looked for is what needs a successor.
        query = query.where(expires_within(only.expires_within_days, SourceKey), ~has_successor())
    return query
