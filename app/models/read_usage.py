"""Usage of reading: what each management token read in an hour, and the last flush of each process that counts."""

from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base

NO_PROJECT: Final = 0
"""In place of a project's row: the request was refused before its project was looked up, or asks for none."""


class ReadHour(Base):
    """What one token read in one hour (UTC), by project, operation and outcome."""

    __tablename__ = "read_hours"
    # Serves the usage of a workspace; the primary key serves that of a token.
    __table_args__ = (Index("ix_read_hours_hour", "workspace_id", "hour"),)
    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    token_id: Mapped[int] = mapped_column(primary_key=True)
    hour: Mapped[datetime] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(primary_key=True)
    """NO_PROJECT where there is none."""
    operation: Mapped[str] = mapped_column(primary_key=True)
    """The operationId of the OpenAPI document."""
    outcome: Mapped[str] = mapped_column(primary_key=True)
    """`answered`, `broken_off` (also counted as answered), or the code of the refusal."""
    requests: Mapped[int]
    events: Mapped[int]
    body_bytes: Mapped[int]
    """Of responses that were not refused, before compression."""


class ReadFlush(Base):
    """The last flush of one process: a repetition of it adds nothing."""

    __tablename__ = "read_flushes"
    process_uid: Mapped[UUID] = mapped_column(primary_key=True)
    flush_uid: Mapped[UUID]
    flushed_at: Mapped[datetime]
