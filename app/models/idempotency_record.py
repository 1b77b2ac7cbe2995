"""Idempotency records: what was answered to a source's Idempotency-Key, and until when it is replayed."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Index, LargeBinary, SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base


class IdempotencyRecord(Base):
    """Scoped by the source and not by the source key: a rotation between attempt and retry still replays."""

    __tablename__ = "idempotency_records"
    __table_args__ = (Index("ix_idempotency_records_expires_at", "expires_at"),)  # serves the purge

    project_id: Mapped[int] = mapped_column(primary_key=True)
    source_id: Mapped[int] = mapped_column(primary_key=True)
    workspace_id: Mapped[int]
    idempotency_key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    event_uid: Mapped[UUID]
    """The attempt that wrote the record: it recognises its own after a commit whose outcome was lost."""
    response_status: Mapped[int] = mapped_column(SmallInteger)
    response_body: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
