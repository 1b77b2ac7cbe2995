"""Environments: the isolated lanes of a project."""

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Select

from app.database import Database
from app.identifiers import new_public_id
from app.locks import exclude_workspace
from app.management.changes import ABSENT, Absent, insert, mentioned, moment, update
from app.management.lookup import find, find_parent, find_to_change
from app.management.operators import Operator
from app.management.pages import Listing, Page, PageRequest
from app.management.projects import live_projects
from app.management.revisions import Facts, Target
from app.models import Environment, Project


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentFacts(Facts):
    """An environment as its readers see it."""

    project_id: str
    name: str
    description: str


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


def live_environments(workspace_id: int) -> Select[Any]:
    """Environments that are not archived, nor their projects; each with its project's public id."""
    return (
        Environment.within(workspace_id)
        .join(Project, Project.id == Environment.project_id)
        .where(Environment.archived_at.is_(None), Project.archived_at.is_(None))
        .add_columns(Project.public_id)
    )


def create_environment(
    database: Database, operator: Operator, project_id: str, new: NewEnvironment
) -> EnvironmentFacts:
    """A new environment of a project. Raises Conflict if the name is taken."""
    with database.transaction() as session:
        (project,) = find_parent(session, live_projects(operator.workspace_id), Project, project_id)
        environment = Environment(
            public_id=new_public_id("env"),
            workspace_id=operator.workspace_id,
            project_id=project.id,
            **asdict(new),
        )
        insert(session, operator, environment, "environment.create", {"project_id": project_id} | asdict(new))
        return _facts(environment, project.public_id)


def list_environments(
    database: Database, operator: Operator, project_id: str, request: PageRequest
) -> Page[EnvironmentFacts]:
    """A project's environments."""
    workspace_id = operator.workspace_id
    with database.transaction() as session:
        (project,) = find(session, live_projects(workspace_id), Project, project_id)
        below = live_environments(workspace_id).where(Environment.project_id == project.id)
        listing = Listing(Environment, workspace_id, f"environments of {project_id}", below, _facts)
        return listing.page(session, request)


def read_environment(database: Database, operator: Operator, environment_id: str) -> EnvironmentFacts:
    """One environment."""
    with database.transaction() as session:
        return _facts(*find(session, live_environments(operator.workspace_id), Environment, environment_id))


def change_environment(
    database: Database, operator: Operator, target: Target, change: EnvironmentChange
) -> EnvironmentFacts:
    """Change what `change` mentions. Raises Conflict if the new name is taken."""
    with database.transaction() as session:
        if change.name is not ABSENT:
            # An event that names the old environment is refused once this has returned.
            exclude_workspace(session, operator.workspace_id)
        live = live_environments(operator.workspace_id)
        environment, project_id = find_to_change(session, live, Environment, target)
        update(session, operator, environment, "environment.update", mentioned(change))
        return _facts(environment, project_id)


def archive_environment(database: Database, operator: Operator, target: Target) -> None:
    """Take the environment and its sources out of use: after this has returned, none of their keys stores."""
    with database.transaction() as session:
        exclude_workspace(session, operator.workspace_id)
        live = live_environments(operator.workspace_id)
        environment, _ = find_to_change(session, live, Environment, target)
        update(session, operator, environment, "environment.archive", {"archived_at": moment(session)})


def _facts(environment: Environment, project_id: str) -> EnvironmentFacts:
    return EnvironmentFacts(
        id=environment.public_id,
        project_id=project_id,
        name=environment.name,
        description=environment.description,
        created_at=environment.created_at,
        updated_at=environment.updated_at,
    )
