"""A project: one product of a workspace."""

from datetime import datetime
from typing import Final

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, WithinWorkspace

# A name is free again once its project is archived.
PROJECT_NAME_UNIQUE: Final = "uq_projects_workspace_id_name"


class Project(WithinWorkspace, Base):
    """One product of a workspace; its id comes first in the keys of the hot tables."""

    __tablename__ = "projects"
    __table_args__ = (
        UniqueConstraint("workspace_id", "id"),
        Index(PROJECT_NAME_UNIQUE, "workspace_id", "name", unique=True, postgresql_where="archived_at IS NULL"),
        # The workspace's projects, newest first.
        Index("ix_projects_created_at", "workspace_id", "created_at", "id"),
    )

    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"))
    name: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    archived_at: Mapped[datetime | None]
