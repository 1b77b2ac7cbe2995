"""Finds the project of a query, and the names of sources, keys and environments in it."""

from typing import Any

import structlog
from sqlalchemy.orm import Session

from app.errors import Fault, NotFound
from app.events.query.fields import Field
from app.events.query.nodes import Node
from app.events.query.resolution import KnownNames, bound, names_in
from app.management.common.hierarchy import projects_within
from app.management.common.lookup import find
from app.management.common.operators import Operator
from app.models import Environment, Project, Source, SourceKey


def find_project(session: Session, operator: Operator, project_id: str) -> Project:
    """A project within the caller's reach, archived or not. Raises NotFound."""
    try:
        (project,) = find(session, projects_within(operator), project_id)
    except NotFound:
        raise NotFound(faults=(Fault("/project_id", "There is no project with this id."),)) from None
    found: Project = project
    note_project(found.public_id)
    return found


def note_project(project_id: str) -> None:
    """Have the request's log line name the project, one that the caller reaches; what is read counts for it."""
    structlog.contextvars.bind_contextvars(project=project_id)


def resolved(session: Session, operator: Operator, project_row: int, node: Node) -> Node:
    """The query with the inner ids of what it names, archived or not. Raises SchemaValidationFailed."""
    return bound(node, known_names(session, operator, project_row, node))


def known_names(session: Session, operator: Operator, project_row: int, node: Node) -> KnownNames:
    """What the names in a query can mean now: an environment may get another one."""
    environments: dict[str, list[int]] = {}
    if names_in(node, Field.ENVIRONMENT):
        for row in session.scalars(
            Environment.within(operator.workspace_id).where(Environment.project_id == project_row)
        ):
            environments.setdefault(row.name, []).append(row.id)
            environments[row.public_id] = [row.id]
    return KnownNames(
        sources=_ids(session, operator, project_row, Source, names_in(node, Field.SOURCE)),
        keys=_ids(session, operator, project_row, SourceKey, names_in(node, Field.KEY)),
        environments=environments,
    )


def _ids(session: Session, operator: Operator, project_row: int, model: Any, names: frozenset[str]) -> dict[str, int]:
    if not names:
        return {}
    query = model.within(operator.workspace_id).where(model.project_id == project_row, model.public_id.in_(names))
    rows = session.execute(query.with_only_columns(model.public_id, model.id))
    return {row.public_id: row.id for row in rows}
