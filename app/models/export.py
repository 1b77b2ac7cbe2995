"""An export: a file of the events that a query finds, which the worker writes."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index, Integer, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base
from app.models.job import JobRow
from app.models.project import Project


class Export(JobRow, Base):
    """A job, and its file; all that a turn has written is noted here, and what is not noted is written again."""

    __tablename__ = "exports"
    __table_args__ = (
        ForeignKeyConstraint(["workspace_id", "project_id"], [Project.workspace_id, Project.id]),
        # The workspace's exports, newest first.
        Index("ix_exports_created_at", "workspace_id", "created_at", "id"),
        # When each workspace had its last turn.
        Index("ix_exports_turn_at", "workspace_id", "turn_at"),
        Index("ix_exports_pending", "workspace_id", postgresql_where="ended_at IS NULL"),
        # Which of all workspaces are purged.
        Index("ix_exports_ended_at", "ended_at", postgresql_where="ended_at IS NOT NULL"),
        # Which of its files are kept.
        Index("ix_exports_expires_at", "workspace_id", "expires_at", postgresql_where="archived_at IS NULL"),
        CheckConstraint("format IN ('ndjson', 'csv')", name="format"),
        CheckConstraint("state IN ('queued', 'running', 'completed', 'failed', 'cancelled')", name="state"),
        CheckConstraint("(ended_at IS NULL) = (state IN ('queued', 'running'))", name="ended_at"),
    )

    names: Mapped[dict[str, Any]] = mapped_column(JSONB)
    """What the names in `q` meant when it was asked for (KnownNames): an environment may be renamed meanwhile."""
    format: Mapped[str]
    bytes: Mapped[int] = mapped_column(server_default="0")
    """Of the file, as far as it is written and flushed."""
    reached_at: Mapped[datetime | None]
    reached_uid: Mapped[UUID | None] = mapped_column(Uuid)
    """Of the events, the newest first, all down to this key are in the file. None: no chunk is written yet."""
    restarts: Mapped[int] = mapped_column(Integer, server_default="0")
    """How often it has begun anew because its file was lost; names the file that is written now."""
    is_written: Mapped[bool] = mapped_column(server_default="false")
    """Whether the last chunk is, so that only the checksum is missing."""
    sha256: Mapped[str | None]
    """Of the file, in hexadecimal digits."""
    expires_at: Mapped[datetime | None]
    """From when on there is no file; None until it is complete."""
    archived_at: Mapped[datetime | None]
    """When an operator deleted it with its file."""
