"""Events, and the ledger that keeps each (source, event id) single."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, LargeBinary, false
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base


class Event(Base):
    """One stored event; partitioned by the day of `received_at` (UTC)."""

    __tablename__ = "events"
    __table_args__ = (
        CheckConstraint("severity IN ('debug', 'info', 'warning', 'error', 'critical')", name="severity"),
        {"postgresql_partition_by": "RANGE (received_at)"},
    )

    project_id: Mapped[int] = mapped_column(primary_key=True)
    received_at: Mapped[datetime] = mapped_column(primary_key=True)
    event_uid: Mapped[UUID] = mapped_column(primary_key=True)
    """Ours, a UUIDv7: single in the whole installation, while `event_id` is single in its source only."""
    workspace_id: Mapped[int]
    environment_id: Mapped[int]
    source_id: Mapped[int]
    source_key_id: Mapped[int]
    """Which key brought it: "what did the leaked key send?" """
    event_id: Mapped[str]
    event_type: Mapped[str]
    severity: Mapped[str]
    occurred_at: Mapped[datetime]
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)
    is_occurred_at_far: Mapped[bool] = mapped_column(server_default=false())
    """The mark of a timestamp that lies beyond its source's bounds around `received_at`."""


class EventLedger(Base):
    """Which event ids a source has used.

    Its own table, because a unique index on a partitioned one must hold the partition key.
    """

    __tablename__ = "event_ledger"
    __table_args__ = (Index("ix_event_ledger_received_at", "received_at"),)  # serves the purge

    project_id: Mapped[int] = mapped_column(primary_key=True)
    source_id: Mapped[int] = mapped_column(primary_key=True)
    event_id: Mapped[str] = mapped_column(primary_key=True)
    event_uid: Mapped[UUID]
    """The stored event's: "already there, and mine" after a commit whose outcome was lost."""
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    received_at: Mapped[datetime]
