"""A new project together with the environments that it is born with."""

from dataclasses import asdict, dataclass

from app.database.engine import Database
from app.management.common.idempotency import changing
from app.management.common.lookup import find
from app.management.common.operators import Operator
from app.management.environments.domain import EnvironmentView, live_environments, view_of_environment
from app.management.projects.domain import NewProject, ProjectView, add_project, live_projects, view_of_project
from app.models import Environment, Project


@dataclass(frozen=True, kw_only=True, slots=True)
class CreatedProject(ProjectView):
    """A project in the answer that creates it."""

    environments: tuple[EnvironmentView, ...]
    """In the order in which they were made."""


def create_project(database: Database, operator: Operator, new: NewProject) -> CreatedProject:
    """A new project with its first environments. Raises Conflict if the name is taken."""
    with changing(database, operator) as session:
        project, environments = add_project(session, operator, new)
        shown = tuple(view_of_environment(environment, project.public_id) for environment in environments)
        return CreatedProject(**asdict(view_of_project(project)), environments=shown)


def read_created_project(database: Database, operator: Operator, project_id: str) -> CreatedProject:
    """A project as its creation showed it, with the environments that it has now."""
    with database.transaction(operator.workspace_id) as session:
        (project,) = find(session, live_projects(operator), Project, project_id)
        below = live_environments(operator).where(Environment.project_id == project.id).order_by(Environment.id)
        shown = tuple(view_of_environment(*row) for row in session.execute(below))
        return CreatedProject(**asdict(view_of_project(project)), environments=shown)
