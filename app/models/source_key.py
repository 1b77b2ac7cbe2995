"""A source key: the credential of a source. Its public id holds the key id that the key itself shows."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index, Integer, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, WithinWorkspace
from app.models.source import Source


class SourceKey(WithinWorkspace, Base):
    """Issued once, shown once, revoked for good."""

    __tablename__ = "source_keys"
    __table_args__ = (
        ForeignKeyConstraint(
            ["workspace_id", "project_id", "source_id"], [Source.workspace_id, Source.project_id, Source.id]
        ),
        Index("ix_source_keys_source_id", "source_id"),
        CheckConstraint("events_per_second > 0", name="events_per_second"),
        # Every process reads all limits every two seconds; few keys have one.
        Index("ix_source_keys_limited", "id", postgresql_where=text("events_per_second IS NOT NULL")),
    )

    project_id: Mapped[int]
    source_id: Mapped[int]
    label: Mapped[str] = mapped_column(server_default="")
    secret_hash: Mapped[str]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    events_per_second: Mapped[int | None] = mapped_column(Integer)
    """None: the installation's default."""
    last_used_at: Mapped[datetime | None]
    """When it last brought an event; written by the worker, a few seconds late, and never backward."""

    def __repr__(self) -> str:
        return f"SourceKey(public_id={self.public_id!r})"
