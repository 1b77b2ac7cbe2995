"""A source: one known producer of events in one environment."""

from datetime import datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index, Integer, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, WithinWorkspace
from app.models.environment import Environment

SOURCE_NAME_UNIQUE: Final = "uq_sources_environment_id_name"
AHEAD_SECONDS_MAX: Final = 86_400
"""A day: a clock in a wrong time zone is fourteen hours ahead at the most."""
BEHIND_SECONDS_MAX: Final = 30 * 86_400
"""A month: a telephone that was offline through a long holiday sends what it has kept."""


class SourceType(StrEnum):
    """The kind of producer, for people to read; nothing depends on it."""

    BACKEND = "backend"
    WEBSITE = "website"
    MOBILE = "mobile"
    SERVICE = "service"
    WORKER = "worker"
    ERP = "erp"
    INTEGRATION = "integration"


class TimestampPolicy(StrEnum):
    """What is done with an event whose timestamp is far from its receipt."""

    ACCEPT = "accept"
    MARK = "mark"
    REFUSE = "refuse"


class Source(WithinWorkspace, Base):
    """The trust boundary: a source key sends events of its source and of no other."""

    __tablename__ = "sources"
    __table_args__ = (
        ForeignKeyConstraint(
            ["workspace_id", "project_id", "environment_id"],
            [Environment.workspace_id, Environment.project_id, Environment.id],
        ),
        UniqueConstraint("workspace_id", "project_id", "id"),
        Index(SOURCE_NAME_UNIQUE, "environment_id", "name", unique=True, postgresql_where="archived_at IS NULL"),
        # The workspace's sources, newest first.
        Index("ix_sources_created_at", "workspace_id", "created_at", "id"),
        CheckConstraint(f"type IN ({', '.join(repr(kind.value) for kind in SourceType)})", name="type"),
        CheckConstraint("timestamp_policy IN ('accept', 'mark', 'refuse')", name="timestamp_policy"),
        CheckConstraint("timestamp_ahead_seconds_max > 0", name="timestamp_ahead_seconds_max"),
        CheckConstraint("timestamp_behind_seconds_max > 0", name="timestamp_behind_seconds_max"),
    )

    project_id: Mapped[int]
    environment_id: Mapped[int]
    name: Mapped[str]
    type: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    timestamp_policy: Mapped[str] = mapped_column(server_default=TimestampPolicy.MARK)
    timestamp_ahead_seconds_max: Mapped[int] = mapped_column(Integer, server_default=str(AHEAD_SECONDS_MAX))
    """Beyond it an event's timestamp is far ahead of its receipt."""
    timestamp_behind_seconds_max: Mapped[int] = mapped_column(Integer, server_default=str(BEHIND_SECONDS_MAX))
    disabled_at: Mapped[datetime | None]
    archived_at: Mapped[datetime | None]
    last_event_at: Mapped[datetime | None]
    """When an event of it was last stored; written by the worker, a few seconds late."""
