"""A new project together with the environments that it is born with."""

from dataclasses import asdict, dataclass

from app.database.engine import Database
from app.management.common.idempotency import changing
from app.management.common.lookup import find
from app.management.common.operators import Operator
from app.management.environments.domain import EnvironmentFacts, facts_of, live_environments
from app.management.projects.domain import NewProject, ProjectFacts, add_project, live_projects, project_facts
from app.models import Environment, Project


@dataclass(frozen=True, kw_only=True, slots=True)
class CreatedProject(ProjectFacts):
    """A project in the answer that creates it."""

    environments: tuple[EnvironmentFacts, ...]
    """In the order in which they were made."""


def create_project(database: Database, operator: Operator, new: NewProject) -> CreatedProject:
    """A new project with its first environments. Raises Conflict if the name is taken."""
    with changing(database, operator) as session:
        project, environments = add_project(session, operator, new)
        shown = tuple(facts_of(environment, project.public_id) for environment in environments)
        return CreatedProject(**asdict(project_facts(project)), environments=shown)


def read_created_project(database: Database, operator: Operator, project_id: str) -> CreatedProject:
    """A project as its creation showed it, with the environments that it has now."""
    with database.transaction(operator.workspace_id) as session:
        (project,) = find(session, live_projects(operator), Project, project_id)
        below = live_environments(operator).where(Environment.project_id == project.id)
        in_order = below.order_by(Environment.created_at, Environment.id)
        shown = tuple(facts_of(*row) for row in session.execute(in_order))
        return CreatedProject(**asdict(project_facts(project)), environments=shown)
