"""Projects: a product of a workspace, created with three environments."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

from sqlalchemy.orm import Session

from app.database.engine import Database
from app.identifiers import new_public_id
from app.management.common.archiving import archive, restore
from app.management.common.etags import Target
from app.management.common.hierarchy import live_environments, live_projects, projects_within
from app.management.common.lookup import find, find_to_change
from app.management.common.mutations import Change, insert, mutation, update
from app.management.common.operators import Operator
from app.management.common.paging import Listing, Page, PageRequest
from app.management.common.views import View, view_of
from app.management.environments.domain import EnvironmentView, NewEnvironment, add_environment, view_of_environment
from app.models import Environment, Project, SourceKey

FIRST_ENVIRONMENTS: Final = ("production", "staging", "development")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectView(View):
    name: str
    description: str
    archived_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CreatedProject(ProjectView):
    environments: tuple[EnvironmentView, ...]
    """In the order in which they were created."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewProject:
    name: str
    description: str = ""


def create_project(database: Database, operator: Operator, new: NewProject) -> CreatedProject:
    """A new project with its first environments. Raises Conflict if the name is taken."""
    with mutation(database, operator) as session:
        project, environments = add_project(session, operator, new)
        views = tuple(view_of_environment(environment, project.public_id) for environment in environments)
        return view_of(CreatedProject, project, environments=views)


def add_project(session: Session, operator: Operator, new: NewProject) -> tuple[Project, list[Environment]]:
    """As create_project(), within a transaction of the caller."""
    project = Project(public_id=new_public_id("prj"), workspace_id=operator.workspace_id, **asdict(new))
    insert(session, operator, project, "project.create", asdict(new))
    chosen = [NewEnvironment(name=name) for name in FIRST_ENVIRONMENTS]
    return project, [add_environment(session, operator, project, each) for each in chosen]


def read_created_project(database: Database, operator: Operator, project_id: str) -> CreatedProject:
    """A project as its creation showed it, with the environments that it has now."""
    with database.transaction(operator.workspace_id) as session:
        (project,) = find(session, live_projects(operator), project_id)
        below = live_environments(operator).where(Environment.project_id == project.id)
        in_order = below.order_by(Environment.created_at, Environment.id)
        views = tuple(view_of_environment(*row) for row in session.execute(in_order))
        return view_of(CreatedProject, project, environments=views)


def list_projects(
    database: Database, operator: Operator, request: PageRequest, *, archived: bool = False
) -> Page[ProjectView]:
    """The workspace's projects: the live ones, or those that are archived."""
    is_archived = Project.archived_at.is_not(None)
    query = projects_within(operator).where(is_archived if archived else ~is_archived)
    listing = Listing(f"projects archived={archived}", query, view_of_project)
    with database.transaction(operator.workspace_id) as session:
        return listing.page(session, operator.workspace_id, request)


def read_project(database: Database, operator: Operator, project_id: str) -> ProjectView:
    with database.transaction(operator.workspace_id) as session:
        return view_of_project(*find(session, live_projects(operator), project_id))


def change_project(database: Database, operator: Operator, target: Target, change: Change) -> ProjectView:
    """Change what `change` mentions. Raises Conflict if the new name is taken."""
    with mutation(database, operator) as session:
        (project,) = find_to_change(session, operator, live_projects(operator), target)
        update(session, operator, project, "project.update", change.values)
        return view_of_project(project)


def archive_project(database: Database, operator: Operator, target: Target) -> None:
    """Take a project and all below it out of use: after this has returned, none of its keys stores."""
    archive(database, operator, live_projects(operator), target, "project.archive")


def restore_project(database: Database, operator: Operator, target: Target) -> ProjectView:
    """Take an archived project and what lay below it back into use, without a key; does nothing to a live one.

    Raises Conflict if its name is taken.
    """
    within = projects_within(operator)
    row = restore(database, operator, within, target, "project.restore", lambda it: SourceKey.project_id == it.id)
    return view_of_project(*row)


def view_of_project(project: Project) -> ProjectView:
    return view_of(ProjectView, project)
