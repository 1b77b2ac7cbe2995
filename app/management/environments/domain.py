"""Environments: the isolated lanes of a project."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select

from app.database.engine import Database
from app.identifiers import new_public_id
from app.management.common.archiving import revoke_keys_below
from app.management.common.etags import Target
from app.management.common.idempotency import changing
from app.management.common.lookup import find, find_parent, find_to_change, find_to_withhold
from app.management.common.mutations import ABSENT, Absent, insert, mentioned, moment, update
from app.management.common.operators import Operator
from app.management.common.paging import Listing, Page, PageRequest
from app.management.common.views import View, view_of
from app.management.projects.domain import live_projects
from app.models import Environment, Project, Source, SourceKey


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentView(View):
    """An environment as its readers see it."""

    project_id: str
    name: str
    description: str
    archived_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class NewEnvironment:
    """What it takes to create one."""

    name: str
    description: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentChange:
    """What can be changed of one."""

    name: str | Absent = ABSENT
    description: str | Absent = ABSENT


def environments_within(operator: Operator) -> Select[Any]:
    """Environments of live projects, archived ones among them; each with its project's public id."""
    return (
        Environment.within(operator.workspace_id)
        .join(Project, Project.id == Environment.project_id)
        .where(Project.archived_at.is_(None), operator.reaches(Project.id))
        .add_columns(Project.public_id)
    )


def live_environments(operator: Operator) -> Select[Any]:
    """Environments that are not archived, nor their projects; each with its project's public id."""
    return environments_within(operator).where(Environment.archived_at.is_(None))


def create_environment(database: Database, operator: Operator, project_id: str, new: NewEnvironment) -> EnvironmentView:
    """A new environment of a project. Raises Conflict if the name is taken."""
    with changing(database, operator) as session:
        (project,) = find_parent(session, operator, live_projects(operator), Project, project_id)
        environment = Environment(
            public_id=new_public_id("env"),
            workspace_id=operator.workspace_id,
            project_id=project.id,
            **asdict(new),
        )
        insert(session, operator, environment, "environment.create", {"project_id": project_id} | asdict(new))
        return view_of_environment(environment, project.public_id)


def list_environments(
    database: Database, operator: Operator, project_id: str, request: PageRequest, *, archived: bool = False
) -> Page[EnvironmentView]:
    """A project's environments, in the order in which they were made: the live ones, or those that are archived."""
    workspace_id = operator.workspace_id
    with database.transaction(operator.workspace_id) as session:
        (project,) = find(session, live_projects(operator), Project, project_id)
        below = environments_within(operator).where(Environment.project_id == project.id)
        is_archived = Environment.archived_at.is_not(None)
        query = below.where(is_archived if archived else ~is_archived)
        name = f"environments of {project_id} archived={archived}"
        listing = Listing(Environment, workspace_id, name, query, view_of_environment, is_oldest_first=True)
        return listing.page(session, request)


def read_environment(database: Database, operator: Operator, environment_id: str) -> EnvironmentView:
    """One environment."""
    with database.transaction(operator.workspace_id) as session:
        return view_of_environment(*find(session, live_environments(operator), Environment, environment_id))


def change_environment(
    database: Database, operator: Operator, target: Target, change: EnvironmentChange
) -> EnvironmentView:
    """Change what `change` mentions. Raises Conflict if the new name is taken."""
    with changing(database, operator) as session:
        # An event that names the old environment is refused once this has returned.
        find_it = find_to_change if change.name is ABSENT else find_to_withhold
        live = live_environments(operator)
        environment, project_id = find_it(session, operator, live, Environment, target)
        update(session, operator, environment, "environment.update", mentioned(change))
        return view_of_environment(environment, project_id)


def archive_environment(database: Database, operator: Operator, target: Target) -> None:
    """Take the environment and its sources out of use: after this has returned, none of their keys stores."""
    with changing(database, operator) as session:
        live = live_environments(operator)
        environment, _ = find_to_withhold(session, operator, live, Environment, target)
        update(session, operator, environment, "environment.archive", {"archived_at": moment(session)})


def restore_environment(database: Database, operator: Operator, target: Target) -> EnvironmentView:
    """Take an archived environment of a live project and its sources back into use, without a key.

    Does nothing to a live one. Raises Conflict if its name is taken.
    """
    with changing(database, operator) as session:
        within = environments_within(operator)
        environment, project_id = find_to_change(session, operator, within, Environment, target)
        if environment.archived_at is not None:
            below = Source.within(operator.workspace_id).where(Source.environment_id == environment.id)
            revoke_keys_below(session, operator, SourceKey.source_id.in_(below.with_only_columns(Source.id)))
        update(session, operator, environment, "environment.restore", {"archived_at": None})
        return view_of_environment(environment, project_id)


def view_of_environment(environment: Environment, project_id: str) -> EnvironmentView:
    """An environment and its project's public id, as its readers see it."""
    return view_of(EnvironmentView, environment, project_id=project_id)
