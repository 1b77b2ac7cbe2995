"""A workspace: the tenant, owner of everything that carries its id."""

from enum import StrEnum

from sqlalchemy import CheckConstraint, Index, Integer, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, ControlRow


class WorkspaceStatus(StrEnum):
    """A suspended workspace keeps its data and its management API, and ingests nothing."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


class Workspace(ControlRow, Base):
    """One tenant."""

    __tablename__ = "workspaces"
    __table_args__ = (
        CheckConstraint("status IN ('active', 'suspended')", name="status"),
        CheckConstraint("events_per_second > 0", name="events_per_second"),
        Index("ix_workspaces_limited", "id", postgresql_where=text("events_per_second IS NOT NULL")),
    )

    name: Mapped[str]
    status: Mapped[str] = mapped_column(server_default=WorkspaceStatus.ACTIVE)
    events_per_second: Mapped[int | None] = mapped_column(Integer)
    """None: the installation's default."""
