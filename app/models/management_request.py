"""What an Idempotency-Key of the management API stands for: a request, and what it created."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base


class ManagementRequest(Base):
    """A change that was carried out, recorded in its own transaction; scoped by the token that requested it."""

    __tablename__ = "management_requests"
    __table_args__ = (Index("ix_management_requests_expires_at", "expires_at"),)  # serves the purge

    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"), primary_key=True)
    actor: Mapped[str] = mapped_column(primary_key=True)
    idempotency_key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    """Of method, path and body."""
    object_id: Mapped[str | None]
    """The public id of what was created; None if nothing was."""
    credential_id: Mapped[str | None]
    """The public id of the key or token that the answer showed, and that cannot be shown again."""
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
