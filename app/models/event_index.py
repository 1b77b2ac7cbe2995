"""What reading keeps beside the events: their counts by hour, the skip index of payloads, the positions of a day."""

from datetime import date, datetime
from typing import Final

from sqlalchemy import BigInteger, Date, Index, Integer
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import CODE_POINTS, Base

_TEXTS: Final = ARRAY(CODE_POINTS)
SEGMENT_EVENTS: Final = 1_000
"""How many events a segment holds; fewer of large ones, and more by what one batch can have."""


class EventHour(Base):
    """How many events of one key, type and severity were stored in one hour (UTC), less those that were deleted.

    Together with the rows of usage_outbox that are not folded yet it is the number of rows in `events`, at any moment.
    """

    __tablename__ = "event_hours"
    __table_args__ = (Index("ix_event_hours_hour", "hour"),)  # serves what goes away with a day

    project_id: Mapped[int] = mapped_column(primary_key=True)
    hour: Mapped[datetime] = mapped_column(primary_key=True)
    source_key_id: Mapped[int] = mapped_column(primary_key=True)
    event_type: Mapped[str] = mapped_column(primary_key=True)
    severity: Mapped[str] = mapped_column(primary_key=True)
    workspace_id: Mapped[int]
    environment_id: Mapped[int]
    source_id: Mapped[int]
    events: Mapped[int]
    """Can be below zero while deleted events are still in the outbox."""


class EventSegment(Base):
    """Which words and numbers the payloads of some consecutive events of a project hold, and of which kind each is."""

    __tablename__ = "event_segments"
    __table_args__ = (
        Index("ix_event_segments_tokens", "tokens", postgresql_using="gin"),
        Index("ix_event_segments_ends_at", "ends_at"),  # serves what goes away with a day
    )

    project_id: Mapped[int] = mapped_column(primary_key=True)
    last_position: Mapped[int] = mapped_column(primary_key=True)
    first_position: Mapped[int]
    workspace_id: Mapped[int]
    begins_at: Mapped[datetime]
    """The earliest received_at in it."""
    ends_at: Mapped[datetime]
    """The latest received_at in it."""
    events: Mapped[int]
    tokens: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    kind_types: Mapped[list[str]] = mapped_column(_TEXTS)
    """Of each kind, which is a combination of type, severity, source, key and environment, its type; and so on."""
    kind_severities: Mapped[list[str]] = mapped_column(_TEXTS)
    kind_sources: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    kind_keys: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    kind_environments: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    kind_ends: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    """Up to which place in `event_positions`, from 1 on, its events are."""
    event_positions: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))


class EventDay(Base):
    """The positions of a closed day's events (UTC), so that a follower need not look into it."""

    __tablename__ = "event_days"

    day: Mapped[date] = mapped_column(Date, primary_key=True)
    first_position: Mapped[int]
    last_position: Mapped[int]
