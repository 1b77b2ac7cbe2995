"""Usage: the outbox that the ingest transaction writes, and the hourly counts that the worker folds it into."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base

_OUTCOMES = "outcome IN ('stored', 'duplicate', 'replayed')"


class UsageOutbox(Base):
    """Accepted events of one key and group, not yet counted. Written with them, so the count is exact whatever dies."""

    __tablename__ = "usage_outbox"
    __table_args__ = (CheckConstraint(_OUTCOMES, name="outcome"),)

    project_id: Mapped[int] = mapped_column(primary_key=True)
    usage_uid: Mapped[UUID] = mapped_column(primary_key=True)
    """A UUIDv7, so that the worker folds the oldest first."""
    source_id: Mapped[int]
    source_key_id: Mapped[int]
    outcome: Mapped[str]
    events: Mapped[int] = mapped_column(server_default=text("1"))
    payload_bytes: Mapped[int]
    """Of all the events together."""
    received_at: Mapped[datetime]


class UsageHour(Base):
    """What one key did in one hour (UTC), by outcome."""

    __tablename__ = "usage_hours"
    __table_args__ = (CheckConstraint(_OUTCOMES, name="outcome"),)

    project_id: Mapped[int] = mapped_column(primary_key=True)
    source_key_id: Mapped[int] = mapped_column(primary_key=True)
    hour: Mapped[datetime] = mapped_column(primary_key=True)
    outcome: Mapped[str] = mapped_column(primary_key=True)
    source_id: Mapped[int]
    events: Mapped[int]
    payload_bytes: Mapped[int]
