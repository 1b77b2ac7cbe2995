"""A replay: events of a query that the worker stores again, in a source, as new events."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index, Integer
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base
from app.models.job import JobRow
from app.models.project import Project
from app.models.source_key import SourceKey

_NONE = UUID(int=0)


class Replay(JobRow, Base):
    """A job; its key, of which the plain text was thrown away, sends its events and no others."""

    __tablename__ = "replays"
    __table_args__ = (
        ForeignKeyConstraint(["workspace_id", "project_id"], [Project.workspace_id, Project.id]),
        ForeignKeyConstraint(
            ["workspace_id", "target_project_id", "target_source_id", "source_key_id"],
            [SourceKey.workspace_id, SourceKey.project_id, SourceKey.source_id, SourceKey.id],
            name="fk_replays_source_key",  # PostgreSQL would cut off the usual one
        ),
        CheckConstraint("state IN ('queued', 'running', 'completed', 'failed', 'cancelled')", name="state"),
        CheckConstraint("(ended_at IS NULL) = (state IN ('queued', 'running'))", name="ended_at"),
        CheckConstraint("rate > 0", name="rate"),
        # The workspace's replays, newest first.
        Index("ix_replays_created_at", "workspace_id", "created_at", "id"),
        # When each workspace had its last turn.
        Index("ix_replays_turn_at", "workspace_id", "turn_at"),
        # Those that the worker takes turns with, and that a workspace may have few of.
        Index("ix_replays_pending", "workspace_id", postgresql_where="ended_at IS NULL"),
        # Which of all workspaces are purged.
        Index("ix_replays_ended_at", "ended_at", postgresql_where="ended_at IS NOT NULL"),
    )

    names: Mapped[dict[str, Any]] = mapped_column(JSONB)
    """What the names in `q` meant when it was made (KnownNames): an environment may be renamed meanwhile."""
    target_project_id: Mapped[int]
    target_source_id: Mapped[int]
    source_key_id: Mapped[int]
    rate: Mapped[int] = mapped_column(Integer)
    """Events a second."""
    last_position: Mapped[int]
    """In the order of the feed; what is stored behind it is not of the range, whatever a clock says."""
    count: Mapped[int | None]
    """How many events the query found when the replay was made; None if they were too many to count."""
    position: Mapped[int] = mapped_column(server_default="0")
    """With the next column the place, in the order of the feed, up to which it has come."""
    event_uid: Mapped[UUID] = mapped_column(server_default=str(_NONE))
    reached_at: Mapped[datetime | None]
    """When the last event that it has come to was received."""
    stored: Mapped[int] = mapped_column(server_default="0")
    duplicates: Mapped[int] = mapped_column(server_default="0")
    refused: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")
    """How many, by the code of the refusal."""
