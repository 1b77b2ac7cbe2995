"""The audit trail: who changed what. The app's role can add to it, and neither change nor remove anything."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Identity, Index, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base


class AuditEntry(Base):
    """One change over the management API or the operator's CLI, written in the change's own transaction."""

    __tablename__ = "audit_entries"
    __table_args__ = (Index("ix_audit_entries_workspace_id", "workspace_id", "id"),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"))
    actor: Mapped[str]
    """`tok_…` for a management token, `cli` for the operator's shell."""
    action: Mapped[str]
    """Object and verb, such as `source_key.revoke`."""
    object_id: Mapped[str]
    changes: Mapped[dict[str, Any]] = mapped_column(JSONB)
    """The fields after the change; never a secret."""
    request_id: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
