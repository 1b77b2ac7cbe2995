"""Sources: who may send. Enabled or disabled by operators, and archived for good."""

from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Select
from sqlalchemy.orm import Session

from app.database import Database
from app.identifiers import new_public_id
from app.locks import exclude_workspace
from app.management.changes import ABSENT, Absent, insert, mentioned, moment, update
from app.management.environments import live_environments
from app.management.lookup import find, find_parent, find_to_change
from app.management.operators import Operator
from app.management.pages import Listing, Page, PageRequest
from app.management.revisions import Facts, Target
from app.models import Environment, Project, Source, SourceType


class SourceStatus(StrEnum):
    """Whether a source's keys can send events."""

    ENABLED = "enabled"
    DISABLED = "disabled"


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFacts(Facts):
    """A source as its readers see it."""

    project_id: str
    environment_id: str
    name: str
    type: SourceType
    description: str
    status: SourceStatus
    last_event_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class NewSource:
    """What it takes to create one; it is born enabled."""

    name: str
    type: SourceType
    description: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceChange:
    """What can be changed of one; its status changes by enabling and disabling."""

    name: str | Absent = ABSENT
    type: SourceType | Absent = ABSENT
    description: str | Absent = ABSENT


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFilter:
    """Which sources a list shows; None shows all."""

    project_id: str | None = None
    environment_id: str | None = None
    type: SourceType | None = None
    status: SourceStatus | None = None


def live_sources(workspace_id: int) -> Select[Any]:
    """Sources that are not archived, nor anything above them; each with the public ids of its parents."""
    return (
        Source.within(workspace_id)
        .join(Environment, Environment.id == Source.environment_id)
        .join(Project, Project.id == Source.project_id)
        .where(Source.archived_at.is_(None), Environment.archived_at.is_(None), Project.archived_at.is_(None))
        .add_columns(Project.public_id, Environment.public_id)
    )


def create_source(database: Database, operator: Operator, environment_id: str, new: NewSource) -> SourceFacts:
    """A new source in an environment. Raises Conflict if the name is taken."""
    with database.transaction() as session:
        live = live_environments(operator.workspace_id)
        environment, project_id = find_parent(session, live, Environment, environment_id)
        return _facts(add_source(session, operator, environment, new), project_id, environment_id)


def add_source(
    session: Session,
    operator: Operator,
    environment: Environment,
    new: NewSource,
    public_id: str | None = None,
) -> Source:
    """As create_source(), as a part of something larger, which may choose the public id."""
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


def list_sources(database: Database, operator: Operator, only: SourceFilter, request: PageRequest) -> Page[SourceFacts]:
    """The workspace's sources, as far as the filter lets them through."""
    workspace_id = operator.workspace_id
    listing = Listing(Source, workspace_id, f"sources {asdict(only)}", _filtered(workspace_id, only), _facts)
    with database.transaction() as session:
        return listing.page(session, request)


def list_sources_of_environment(
    database: Database, operator: Operator, environment_id: str, request: PageRequest
) -> Page[SourceFacts]:
    """An environment's sources."""
    workspace_id = operator.workspace_id
    with database.transaction() as session:
        find(session, live_environments(workspace_id), Environment, environment_id)
        query = _filtered(workspace_id, SourceFilter(environment_id=environment_id))
        return Listing(Source, workspace_id, f"sources of {environment_id}", query, _facts).page(session, request)


def read_source(database: Database, operator: Operator, source_id: str) -> SourceFacts:
    """One source."""
    with database.transaction() as session:
        return _facts(*find(session, live_sources(operator.workspace_id), Source, source_id))


def change_source(database: Database, operator: Operator, target: Target, change: SourceChange) -> SourceFacts:
    """Change what `change` mentions. Raises Conflict if the new name is taken."""
    with database.transaction() as session:
        source, *parents = find_to_change(session, live_sources(operator.workspace_id), Source, target)
        update(session, operator, source, "source.update", mentioned(change))
        return _facts(source, *parents)


def enable_source(database: Database, operator: Operator, target: Target) -> SourceFacts:
    """Let the source's keys send events; does nothing to an enabled one."""
    with database.transaction() as session:
        source, *parents = find_to_change(session, live_sources(operator.workspace_id), Source, target)
        update(session, operator, source, "source.enable", {"disabled_at": None})
        return _facts(source, *parents)


def disable_source(database: Database, operator: Operator, target: Target) -> SourceFacts:
    """After this has returned, none of the source's keys stores; does nothing to a disabled one."""
    with database.transaction() as session:
        exclude_workspace(session, operator.workspace_id)
        source, *parents = find_to_change(session, live_sources(operator.workspace_id), Source, target)
        update(
            session,
            operator,
            source,
            "source.disable",
            {"disabled_at": source.disabled_at or moment(session)},
        )
        return _facts(source, *parents)


def archive_source(database: Database, operator: Operator, target: Target) -> None:
    """Take the source out of use for good: after this has returned, none of its keys stores."""
    with database.transaction() as session:
        exclude_workspace(session, operator.workspace_id)
        source, *_ = find_to_change(session, live_sources(operator.workspace_id), Source, target)
        update(session, operator, source, "source.archive", {"archived_at": moment(session)})


def _filtered(workspace_id: int, only: SourceFilter) -> Select[Any]:
    query = live_sources(workspace_id)
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


def _facts(source: Source, project_id: str, environment_id: str) -> SourceFacts:
    return SourceFacts(
        id=source.public_id,
        project_id=project_id,
        environment_id=environment_id,
        name=source.name,
        type=SourceType(source.type),
        description=source.description,
        status=SourceStatus.DISABLED if source.disabled_at else SourceStatus.ENABLED,
        last_event_at=source.last_event_at,
        created_at=source.created_at,
        updated_at=source.updated_at,
    )
