"""A workspace: the tenant, owner of every row with its id."""

from datetime import datetime
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
        CheckConstraint("retention_days > 0", name="retention_days"),
        CheckConstraint("key_events_per_second > 0", name="key_events_per_second"),
        Index("ix_workspaces_limited", "id", postgresql_where=text("events_per_second IS NOT NULL")),
        Index("ix_workspaces_keys_limited", "id", postgresql_where=text("key_events_per_second IS NOT NULL")),
    )

    name: Mapped[str]
    status: Mapped[str] = mapped_column(server_default=WorkspaceStatus.ACTIVE)
    events_per_second: Mapped[int | None] = mapped_column(Integer)
    """Of all its keys together, set by the operator of the installation. None: the installation's default."""
    retention_days: Mapped[int | None] = mapped_column(Integer)
    """How long events are kept. None: as long as the installation keeps them."""
    key_events_per_second: Mapped[int | None] = mapped_column(Integer)
    """For each key without a limit of its own. None: the installation's default."""
    moving_to: Mapped[str | None]
    """The cell that it is being copied to. It goes on here."""
    frozen_at: Mapped[datetime | None]
    """Since when it has waited for the last part of its move: nothing is stored or changed, here or there."""
    move_id: Mapped[str | None]
    """Of the last move, in the rows of both cells: a row that a backup has brought back bears that of an older one."""
    home: Mapped[str | None]
    """The cell that it lives in, if that is another one: this is what is left of it, or not whole yet."""
