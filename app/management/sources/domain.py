"""Sources: who may send. Enabled, disabled, archived and restored by operators."""

from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Select
from sqlalchemy.orm import Session

from app.database.engine import Database
from app.identifiers import new_public_id
from app.management.common.archiving import revoke_keys_below
from app.management.common.etags import Target
from app.management.common.idempotency import changing
from app.management.common.lookup import find, find_to_change, find_to_withhold
from app.management.common.mutations import ABSENT, Absent, insert, mentioned, moment, update
from app.management.common.operators import Operator
from app.management.common.paging import Listing, Page, PageRequest
from app.management.common.views import View, view_of
from app.management.environments.domain import live_environments
from app.models import Environment, Project, Source, SourceKey, SourceType, TimestampPolicy
from app.models.source import AHEAD_SECONDS_MAX, BEHIND_SECONDS_MAX


class SourceStatus(StrEnum):
    """Whether a source's keys can send events."""

    ENABLED = "enabled"
    DISABLED = "disabled"


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceView(View):
    """A source as its readers see it."""

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
class NewSource:
    """What it takes to create one; it is born enabled."""

    name: str
    type: SourceType
    description: str = ""
    timestamp_policy: TimestampPolicy = TimestampPolicy.MARK
    timestamp_ahead_seconds_max: int = AHEAD_SECONDS_MAX
    timestamp_behind_seconds_max: int = BEHIND_SECONDS_MAX


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceChange:
    """What can be changed of one; its status changes by enabling and disabling."""

    name: str | Absent = ABSENT
    type: SourceType | Absent = ABSENT
    description: str | Absent = ABSENT
    timestamp_policy: TimestampPolicy | Absent = ABSENT
    timestamp_ahead_seconds_max: int | Absent = ABSENT
    timestamp_behind_seconds_max: int | Absent = ABSENT


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFilter:
    """Which sources a list shows; None shows all."""

    project_id: str | None = None
    environment_id: str | None = None
    type: SourceType | None = None
    status: SourceStatus | None = None
    archived: bool = False


def sources_within(operator: Operator) -> Select[Any]:
    """Sources with live parents, archived ones among them; each with the public ids of its parents."""
    return (
        Source.within(operator.workspace_id)
        .join(Environment, Environment.id == Source.environment_id)
        .join(Project, Project.id == Source.project_id)
        .where(Environment.archived_at.is_(None), Project.archived_at.is_(None))
        .where(operator.reaches(Project.id))
        .add_columns(Project.public_id, Environment.public_id)
    )


def live_sources(operator: Operator) -> Select[Any]:
    """Sources that are not archived, nor anything above them; each with the public ids of its parents."""
    return sources_within(operator).where(Source.archived_at.is_(None))


def add_source(
    session: Session,
    operator: Operator,
    environment: Environment,
    new: NewSource,
    public_id: str | None = None,
) -> Source:
    """A new source in an environment, as a part of something larger, which may choose the public id.

    Raises Conflict if the name is taken.
    """
    source = Source(
        public_id=public_id or new_public_id("src"),
        workspace_id=operator.workspace_id,
        project_id=environment.project_id,
        environment_id=environment.id,
        **asdict(new),
    )
    shown = {"environment_id": environment.public_id} | asdict(new)
    insert(session, operator, source, "source.create", shown)
    return source


def list_sources(database: Database, operator: Operator, only: SourceFilter, request: PageRequest) -> Page[SourceView]:
    """The workspace's sources, as far as the filter lets them through."""
    workspace_id = operator.workspace_id
    listing = Listing(Source, workspace_id, f"sources {asdict(only)}", _filtered(operator, only), view_of_source)
    with database.transaction(operator.workspace_id) as session:
        return listing.page(session, request)


def list_sources_of_environment(
    database: Database, operator: Operator, environment_id: str, request: PageRequest
) -> Page[SourceView]:
    """An environment's sources."""
    workspace_id = operator.workspace_id
    with database.transaction(operator.workspace_id) as session:
        find(session, live_environments(operator), Environment, environment_id)
        query = _filtered(operator, SourceFilter(environment_id=environment_id))
        return Listing(Source, workspace_id, f"sources of {environment_id}", query, view_of_source).page(
            session, request
        )


def read_source(database: Database, operator: Operator, source_id: str) -> SourceView:
    """One source."""
    with database.transaction(operator.workspace_id) as session:
        return view_of_source(*find(session, live_sources(operator), Source, source_id))


def change_source(database: Database, operator: Operator, target: Target, change: SourceChange) -> SourceView:
    """Change what `change` mentions. Raises Conflict if the new name is taken."""
    with changing(database, operator) as session:
        source, *parents = find_to_change(session, operator, live_sources(operator), Source, target)
        update(session, operator, source, "source.update", mentioned(change))
        return view_of_source(source, *parents)


def enable_source(database: Database, operator: Operator, target: Target) -> SourceView:
    """Let the source's keys send events; does nothing to an enabled one."""
    with changing(database, operator) as session:
        source, *parents = find_to_change(session, operator, live_sources(operator), Source, target)
        update(session, operator, source, "source.enable", {"disabled_at": None})
        return view_of_source(source, *parents)


def disable_source(database: Database, operator: Operator, target: Target) -> SourceView:
    """After this has returned, none of the source's keys stores; does nothing to a disabled one."""
    with changing(database, operator) as session:
        source, *parents = find_to_withhold(session, operator, live_sources(operator), Source, target)
        update(
            session,
            operator,
            source,
            "source.disable",
            {"disabled_at": source.disabled_at or moment(session)},
        )
        return view_of_source(source, *parents)


def archive_source(database: Database, operator: Operator, target: Target) -> None:
    """Take the source out of use: after this has returned, none of its keys stores."""
    with changing(database, operator) as session:
        source, *_ = find_to_withhold(session, operator, live_sources(operator), Source, target)
        update(session, operator, source, "source.archive", {"archived_at": moment(session)})


def restore_source(database: Database, operator: Operator, target: Target) -> SourceView:
    """Take an archived source with live parents back into use, without a key; does nothing to a live one.

    Raises Conflict if its name is taken.
    """
    with changing(database, operator) as session:
        source, *parents = find_to_change(session, operator, sources_within(operator), Source, target)
        if source.archived_at is not None:
            revoke_keys_below(session, operator, SourceKey.source_id == source.id)
        update(session, operator, source, "source.restore", {"archived_at": None})
        return view_of_source(source, *parents)


def _filtered(operator: Operator, only: SourceFilter) -> Select[Any]:
    is_archived = Source.archived_at.is_not(None)
    query = sources_within(operator).where(is_archived if only.archived else ~is_archived)
    if only.project_id is not None:
        query = query.where(Project.public_id == only.project_id)
    if only.environment_id is not None:
        query = query.where(Environment.public_id == only.environment_id)
    if only.type is not None:
        query = query.where(Source.type == only.type)
    if only.status is not None:
        is_disabled = only.status is SourceStatus.DISABLED
        query = query.where(Source.disabled_at.is_not(None) if is_disabled else Source.disabled_at.is_(None))
    return query


def view_of_source(source: Source, project_id: str, environment_id: str) -> SourceView:
    """A source and the public ids of its parents, as its readers see it."""
    return view_of(
        SourceView,
        source,
        project_id=project_id,
        environment_id=environment_id,
        type=SourceType(source.type),
        timestamp_policy=TimestampPolicy(source.timestamp_policy),
        status=SourceStatus.DISABLED if source.disabled_at else SourceStatus.ENABLED,
    )
