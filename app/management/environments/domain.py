"""Environments: the isolated parts of a project, such as production."""

from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from app.database.engine import Database
from app.identifiers import new_public_id
from app.management.common.archiving import archive, restore
from app.management.common.etags import Target
from app.management.common.hierarchy import environments_within, live_environments, live_projects
from app.management.common.lookup import find, find_behind_barrier, find_parent, find_to_change
from app.management.common.mutations import Change, insert, mutation, update
from app.management.common.operators import Operator
from app.management.common.paging import Listing, Page, PageRequest
from app.management.common.views import View, view_of
from app.models import Environment, Project, Source, SourceKey


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentView(View):
    project_id: str
    name: str
    description: str
    archived_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class NewEnvironment:
    name: str
    description: str = ""


def create_environment(database: Database, operator: Operator, project_id: str, new: NewEnvironment) -> EnvironmentView:
    """A new environment of a project. Raises Conflict if the name is taken."""
    with mutation(database, operator) as session:
        (project,) = find_parent(session, operator, live_projects(operator), project_id)
        return view_of_environment(add_environment(session, operator, project, new), project_id)


def add_environment(session: Session, operator: Operator, project: Project, new: NewEnvironment) -> Environment:
    """As create_environment(), within a transaction of the caller."""
    environment = Environment(
        public_id=new_public_id("env"), workspace_id=operator.workspace_id, project_id=project.id, **asdict(new)
    )
    insert(session, operator, environment, "environment.create", {"project_id": project.public_id} | asdict(new))
    return environment


def list_environments(
    database: Database, operator: Operator, project_id: str, request: PageRequest, *, archived: bool = False
) -> Page[EnvironmentView]:
    """A project's environments, in the order in which they were created: the live ones, or those that are archived."""
    with database.transaction(operator.workspace_id) as session:
        (project,) = find(session, live_projects(operator), project_id)
        is_archived = Environment.archived_at.is_not(None)
        query = environments_within(operator).where(
            Environment.project_id == project.id, is_archived if archived else ~is_archived
        )
        name = f"environments of {project_id} archived={archived}"
        listing = Listing(name, query, view_of_environment, is_oldest_first=True)
        return listing.page(session, operator.workspace_id, request)


def read_environment(database: Database, operator: Operator, environment_id: str) -> EnvironmentView:
    with database.transaction(operator.workspace_id) as session:
        return view_of_environment(*find(session, live_environments(operator), environment_id))


def change_environment(database: Database, operator: Operator, target: Target, change: Change) -> EnvironmentView:
    """Change what `change` mentions. Raises Conflict if the new name is taken."""
    # After this has returned, an event that names the old environment is refused.
    find_it = find_behind_barrier if "name" in change.values else find_to_change
    with mutation(database, operator) as session:
        environment, project_id = find_it(session, operator, live_environments(operator), target)
        update(session, operator, environment, "environment.update", change.values)
        return view_of_environment(environment, project_id)


def archive_environment(database: Database, operator: Operator, target: Target) -> None:
    """Take an environment and its sources out of use: after this has returned, none of their keys stores."""
    archive(database, operator, live_environments(operator), target, "environment.archive")


def restore_environment(database: Database, operator: Operator, target: Target) -> EnvironmentView:
    """Take an archived environment of a live project and its sources back into use, without a key.

    Does nothing to a live one. Raises Conflict if its name is taken.
    """

    def keys_below(environment: Environment) -> ColumnElement[bool]:
        sources = Source.within(operator.workspace_id).where(Source.environment_id == environment.id)
        return SourceKey.source_id.in_(sources.with_only_columns(Source.id))

    within = environments_within(operator)
    return view_of_environment(*restore(database, operator, within, target, "environment.restore", keys_below))


def view_of_environment(environment: Environment, project_id: str) -> EnvironmentView:
    return view_of(EnvironmentView, environment, project_id=project_id)
