"""An environment: an isolated part of a project. Data never crosses."""

from datetime import datetime
from typing import Final

from sqlalchemy import ForeignKeyConstraint, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, WithinWorkspace
from app.models.project import Project

ENVIRONMENT_NAME_UNIQUE: Final = "uq_environments_project_id_name"


class Environment(WithinWorkspace, Base):
    """Such as production, staging or development."""

    __tablename__ = "environments"
    __table_args__ = (
        ForeignKeyConstraint(["workspace_id", "project_id"], [Project.workspace_id, Project.id]),
        UniqueConstraint("workspace_id", "project_id", "id"),
        Index(ENVIRONMENT_NAME_UNIQUE, "project_id", "name", unique=True, postgresql_where="archived_at IS NULL"),
        # The project's environments, oldest first.
        Index("ix_environments_created_at", "project_id", "created_at", "id"),
    )

    project_id: Mapped[int]
    name: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    archived_at: Mapped[datetime | None]
