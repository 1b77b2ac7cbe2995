"""Queries for projects, environments and sources within a caller's reach: what keys and tokens are issued in.

They stand here and not with each resource, because a resource needs those of its parents and of its children.
"""

from typing import Any

from sqlalchemy import Select

from app.management.common.operators import Operator
from app.models import Environment, Project, Source


def projects_within(operator: Operator) -> Select[Any]:
    """Projects within the caller's reach, archived ones among them."""
    return Project.within(operator.workspace_id).where(operator.reaches(Project.id))


def live_projects(operator: Operator) -> Select[Any]:
    """Projects that are not archived."""
    return projects_within(operator).where(Project.archived_at.is_(None))


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


def sources_within(operator: Operator) -> Select[Any]:
    """Sources with live parents, archived ones among them; each with the public ids of its parents."""
    return (
        Source.within(operator.workspace_id)
        .join(Environment, Environment.id == Source.environment_id)
        .join(Project, Project.id == Source.project_id)
        .where(Environment.archived_at.is_(None), Project.archived_at.is_(None), operator.reaches(Project.id))
        .add_columns(Project.public_id, Environment.public_id)
    )


def live_sources(operator: Operator) -> Select[Any]:
    """Sources that are not archived, nor anything above them; each with the public ids of its parents."""
    return sources_within(operator).where(Source.archived_at.is_(None))
