"""Projects: a product of a workspace, born with three environments."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

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
from app.models import Environment, Project, SourceKey

FIRST_ENVIRONMENTS: Final = ("production", "staging", "development")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectView(View):
    """A project as its readers see it."""

    name: str
    description: str
    archived_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class NewProject:
    """What it takes to create one."""

    name: str
    description: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectChange:
    """What can be changed of one."""

    name: str | Absent = ABSENT
    description: str | Absent = ABSENT


def projects_within(operator: Operator) -> Select[Any]:
    """Projects within the caller's reach, archived ones among them."""
    return Project.within(operator.workspace_id).where(operator.reaches(Project.id))


def live_projects(operator: Operator) -> Select[Any]:
    """Projects that are not archived."""
    return projects_within(operator).where(Project.archived_at.is_(None))


def add_project(session: Session, operator: Operator, new: NewProject) -> tuple[Project, list[Environment]]:
    """A new project with its first environments, as a part of something larger.

    Raises Conflict if the name is taken.
    """
    project = Project(public_id=new_public_id("prj"), workspace_id=operator.workspace_id, **asdict(new))
    insert(session, operator, project, "project.create", asdict(new))
    environments = []
    for name in FIRST_ENVIRONMENTS:
        environment = Environment(
            public_id=new_public_id("env"),
            workspace_id=operator.workspace_id,
            project_id=project.id,
            name=name,
        )
        shown = {"project_id": project.public_id, "name": name}
        insert(session, operator, environment, "environment.create", shown)
        environments.append(environment)
    return project, environments


def list_projects(
    database: Database, operator: Operator, request: PageRequest, *, archived: bool = False
) -> Page[ProjectView]:
    """The workspace's projects: the live ones, or those that are archived."""
    workspace_id = operator.workspace_id
    query = projects_within(operator).where(Project.archived_at.is_not(None)) if archived else live_projects(operator)
    listing = Listing(Project, workspace_id, f"projects archived={archived}", query, view_of_project)
    with database.transaction(operator.workspace_id) as session:
        return listing.page(session, request)


def read_project(database: Database, operator: Operator, project_id: str) -> ProjectView:
    """One project."""
    with database.transaction(operator.workspace_id) as session:
        return view_of_project(*find(session, live_projects(operator), Project, project_id))


def change_project(database: Database, operator: Operator, target: Target, change: ProjectChange) -> ProjectView:
    """Change what `change` mentions. Raises Conflict if the new name is taken."""
    with changing(database, operator) as session:
        (project,) = find_to_change(session, operator, live_projects(operator), Project, target)
        update(session, operator, project, "project.update", mentioned(change))
        return view_of_project(project)


def archive_project(database: Database, operator: Operator, target: Target) -> None:
    """Take the project and all below it out of use: after this has returned, none of its keys stores."""
    with changing(database, operator) as session:
        (project,) = find_to_withhold(session, operator, live_projects(operator), Project, target)
        update(session, operator, project, "project.archive", {"archived_at": moment(session)})


def restore_project(database: Database, operator: Operator, target: Target) -> ProjectView:
    """Take an archived project and what lay below it back into use, without a key; does nothing to a live one.

    Raises Conflict if its name is taken.
    """
    with changing(database, operator) as session:
        (project,) = find_to_change(session, operator, projects_within(operator), Project, target)
        if project.archived_at is not None:
            revoke_keys_below(session, operator, SourceKey.project_id == project.id)
        update(session, operator, project, "project.restore", {"archived_at": None})
        return view_of_project(project)


def view_of_project(project: Project) -> ProjectView:
    """A project as its readers see it."""
    return view_of(ProjectView, project)
