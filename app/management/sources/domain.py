"""Sources: the producers of events, enabled, disabled, archived and restored by operators."""

from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Select
from sqlalchemy.orm import Session

from app.credentials.verification import Credentials
from app.database.engine import Database
from app.identifiers import new_public_id
from app.management.common.archiving import archive, restore
from app.management.common.etags import Target
from app.management.common.hierarchy import live_environments, live_sources, sources_within
from app.management.common.lookup import equal_if_given, find, find_behind_barrier, find_parent, find_to_change
from app.management.common.minting import mint_for
from app.management.common.mutations import Change, insert, moment, mutation, name_taken, update
from app.management.common.operators import Operator
from app.management.common.paging import Listing, Page, PageRequest
from app.management.common.views import View, copy_of, view_of
from app.management.keys.domain import IssuedKey, NewKey, add_key
from app.models import Environment, Project, Source, SourceKey, SourceType, TimestampPolicy
from app.models.source import AHEAD_SECONDS_MAX, BEHIND_SECONDS_MAX, SOURCE_NAME_UNIQUE


class SourceStatus(StrEnum):
    ENABLED = "enabled"
    DISABLED = "disabled"


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceView(View):
    project_id: str
    environment_id: str
    name: str
    type: SourceType
    description: str
    timestamp_policy: TimestampPolicy
    timestamp_ahead_seconds_max: int
    timestamp_behind_seconds_max: int
    status: SourceStatus
    last_event_at: datetime | None
    archived_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CreatedSource(SourceView):
    key: IssuedKey | None = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class NewSource:
    """What can be chosen for one; it begins enabled."""

    name: str
    type: SourceType
    description: str = ""
    timestamp_policy: TimestampPolicy = TimestampPolicy.MARK
    timestamp_ahead_seconds_max: int = AHEAD_SECONDS_MAX
    timestamp_behind_seconds_max: int = BEHIND_SECONDS_MAX


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFilter:
    """Which sources a list shows; None shows all."""

    project_id: str | None = None
    environment_id: str | None = None
    type: SourceType | None = None
    status: SourceStatus | None = None
    archived: bool = False


def create_source(
    database: Database,
    credentials: Credentials,
    operator: Operator,
    environment_id: str,
    new: NewSource,
    new_key: NewKey | None,
) -> CreatedSource:
    """A new source in an environment, with its first key if `new_key` is given.

    Raises Conflict if the name is taken, and what issue_key() raises.
    """

    def require_free_name(session: Session) -> None:
        environment, _ = find(session, live_environments(operator), environment_id)
        named = Source.within(operator.workspace_id).where(Source.name == new.name, Source.archived_at.is_(None))
        if session.scalars(named.where(Source.environment_id == environment.id)).one_or_none() is not None:
            raise name_taken(SOURCE_NAME_UNIQUE, new.name)

    minted = None if new_key is None else mint_for(database, credentials, operator, "sk", require_free_name)
    with mutation(database, operator) as session:
        environment, project_id = find_parent(session, operator, live_environments(operator), environment_id)
        source = add_source(session, operator, environment, new)
        key = add_key(session, minted, operator, source, new_key) if minted and new_key else None
        return copy_of(CreatedSource, view_of_source(source, project_id, environment_id), key=key)


def add_source(
    session: Session, operator: Operator, environment: Environment, new: NewSource, public_id: str | None = None
) -> Source:
    """As create_source(), within a transaction of the caller, who may choose the public id."""
    source = Source(
        public_id=public_id or new_public_id("src"),
        workspace_id=operator.workspace_id,
        project_id=environment.project_id,
        environment_id=environment.id,
        **asdict(new),
    )
    insert(session, operator, source, "source.create", {"environment_id": environment.public_id} | asdict(new))
    return source


def list_sources(database: Database, operator: Operator, only: SourceFilter, request: PageRequest) -> Page[SourceView]:
    listing = Listing(f"sources {asdict(only)}", _filtered(operator, only), view_of_source)
    with database.transaction(operator.workspace_id) as session:
        return listing.page(session, operator.workspace_id, request)


def list_sources_of_environment(
    database: Database, operator: Operator, environment_id: str, request: PageRequest
) -> Page[SourceView]:
    query = _filtered(operator, SourceFilter(environment_id=environment_id))
    listing = Listing(f"sources of {environment_id}", query, view_of_source)
    with database.transaction(operator.workspace_id) as session:
        find(session, live_environments(operator), environment_id)
        return listing.page(session, operator.workspace_id, request)


def read_source(database: Database, operator: Operator, source_id: str) -> SourceView:
    with database.transaction(operator.workspace_id) as session:
        return view_of_source(*find(session, live_sources(operator), source_id))


def change_source(database: Database, operator: Operator, target: Target, change: Change) -> SourceView:
    """Change what `change` mentions. Raises Conflict if the new name is taken."""
    with mutation(database, operator) as session:
        source, *parents = find_to_change(session, operator, live_sources(operator), target)
        update(session, operator, source, "source.update", change.values)
        return view_of_source(source, *parents)


def enable_source(database: Database, operator: Operator, target: Target) -> SourceView:
    """Let the source's keys send events; does nothing to an enabled one."""
    with mutation(database, operator) as session:
        source, *parents = find_to_change(session, operator, live_sources(operator), target)
        update(session, operator, source, "source.enable", {"disabled_at": None})
        return view_of_source(source, *parents)


def disable_source(database: Database, operator: Operator, target: Target) -> SourceView:
    """After this has returned, none of the source's keys stores; does nothing to a disabled one."""
    with mutation(database, operator) as session:
        source, *parents = find_behind_barrier(session, operator, live_sources(operator), target)
        values = {"disabled_at": source.disabled_at or moment(session)}
        update(session, operator, source, "source.disable", values)
        return view_of_source(source, *parents)


def archive_source(database: Database, operator: Operator, target: Target) -> None:
    """Take a source out of use: after this has returned, none of its keys stores."""
    archive(database, operator, live_sources(operator), target, "source.archive")


def restore_source(database: Database, operator: Operator, target: Target) -> SourceView:
    """Take an archived source with live parents back into use, without a key; does nothing to a live one.

    Raises Conflict if its name is taken.
    """
    within = sources_within(operator)
    row = restore(database, operator, within, target, "source.restore", lambda it: SourceKey.source_id == it.id)
    return view_of_source(*row)


def _filtered(operator: Operator, only: SourceFilter) -> Select[Any]:
    is_archived, is_disabled = Source.archived_at.is_not(None), Source.disabled_at.is_not(None)
    query = sources_within(operator).where(
        is_archived if only.archived else ~is_archived,
        equal_if_given(Project.public_id, only.project_id),
        equal_if_given(Environment.public_id, only.environment_id),
        equal_if_given(Source.type, only.type),
    )
    if only.status is None:
        return query
    return query.where(is_disabled if only.status is SourceStatus.DISABLED else ~is_disabled)


def view_of_source(source: Source, project_id: str, environment_id: str) -> SourceView:
    return view_of(
        SourceView,
        source,
        project_id=project_id,
        environment_id=environment_id,
        type=SourceType(source.type),
        timestamp_policy=TimestampPolicy(source.timestamp_policy),
        status=SourceStatus.DISABLED if source.disabled_at else SourceStatus.ENABLED,
    )
