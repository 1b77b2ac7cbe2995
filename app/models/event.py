"""Events, and the ledger that keeps each event id of a source unique."""

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
        Index("ix_events_position", "project_id", "position"),  # serves the feed
        {"postgresql_partition_by": "RANGE (received_at)"},
    )

    project_id: Mapped[int] = mapped_column(primary_key=True)
    received_at: Mapped[datetime] = mapped_column(primary_key=True)
    event_uid: Mapped[UUID] = mapped_column(primary_key=True)
    """Ours, a UUIDv7, unique in the whole installation; `event_id` is unique in its source."""
    workspace_id: Mapped[int]
    environment_id: Mapped[int]
    source_id: Mapped[int]
    source_key_id: Mapped[int]
    """The key that sent it: "what did the leaked key send?" """
    event_id: Mapped[str]
    event_type: Mapped[str]
    severity: Mapped[str]
    occurred_at: Mapped[datetime]
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)
    is_occurred_at_far: Mapped[bool] = mapped_column(server_default=false())
    """Whether `occurred_at` lies outside its source's bounds around `received_at`."""
    position: Mapped[int]
    """In the order of the feed: of the sequence event_positions, one number for all that was stored together."""


class EventLedger(Base):
    """The event ids that a source has used: a source's second event with one id is not stored.

    A table of its own, because a unique index on a partitioned table must hold the partition key.
    """

    __tablename__ = "event_ledger"
    __table_args__ = (Index("ix_event_ledger_received_at", "received_at"),)  # serves the purge

    project_id: Mapped[int] = mapped_column(primary_key=True)
    source_id: Mapped[int] = mapped_column(primary_key=True)
    workspace_id: Mapped[int]
    event_id: Mapped[str] = mapped_column(primary_key=True)
    event_uid: Mapped[UUID]
    """The stored event's: an attempt recognises its own claim after a commit whose outcome was lost."""
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    received_at: Mapped[datetime]
