"""Usage: the outbox that the ingest transaction writes, and the hourly counts that the worker folds it into."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Index, Text, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base


class UsageOutbox(Base):
    """Events of one key and group, not yet folded. Written in their transaction, so the count survives any crash."""

    __tablename__ = "usage_outbox"
    project_id: Mapped[int] = mapped_column(primary_key=True)
    usage_uid: Mapped[UUID] = mapped_column(primary_key=True)
    workspace_id: Mapped[int]
    source_id: Mapped[int]
    source_key_id: Mapped[int]
    outcome: Mapped[str]
    """`stored`, `duplicate`, `replayed`, or the code of the refusal."""
    events: Mapped[int] = mapped_column(server_default=text("1"))
    payload_bytes: Mapped[int]
    """Of all the events together."""
    received_at: Mapped[datetime]
    addresses: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    """Of the clients, each once."""
    attempts: Mapped[list[UUID] | None] = mapped_column(ARRAY(Uuid))
    """Of duplicates and replays: the attempts that `events` counts, so that none is counted twice."""
    environment_id: Mapped[int | None]
    """This and the next two for stored events that count in event_hours; NULL: they have been deleted since."""
    event_type: Mapped[str | None]
    severity: Mapped[str | None]


class UsageHour(Base):
    """What one key did in one hour (UTC), by outcome."""

    __tablename__ = "usage_hours"
    # Serves the usage of a project or workspace.
    __table_args__ = (Index("ix_usage_hours_hour", "project_id", "hour"),)
    project_id: Mapped[int] = mapped_column(primary_key=True)
    source_key_id: Mapped[int] = mapped_column(primary_key=True)
    hour: Mapped[datetime] = mapped_column(primary_key=True)
    outcome: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[int]
    source_id: Mapped[int]
    events: Mapped[int]
    payload_bytes: Mapped[int]
