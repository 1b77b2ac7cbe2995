"""The audit trail: who changed what. The app's role can add to it, and neither change nor remove anything."""

from typing import Any

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, OwnedRow


class AuditEntry(OwnedRow, Base):
    """One change, or one expiry that the worker has seen pass; written in the transaction of what it tells."""

    __tablename__ = "audit_entries"
    __table_args__ = (
        Index("ix_audit_entries_workspace_id", "workspace_id", "id"),
        Index("ix_audit_entries_object_id", "workspace_id", "object_id", "id"),
        Index("ix_audit_entries_actor", "workspace_id", "actor", "id"),
    )

    public_id: Mapped[str] = mapped_column(
        unique=True, server_default=text("('aud_'::text || replace((gen_random_uuid())::text, '-'::text, ''::text))")
    )
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"))
    project_id: Mapped[int | None]
    """The project that the object lies in; None for what belongs to the whole workspace."""
    actor: Mapped[str]
    """`tok_…` for a management token, `cli` for the operator's shell, `worker` for what time has done."""
    action: Mapped[str]
    """Object and verb, such as `source_key.revoke`."""
    object_id: Mapped[str]
    before: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")
    """The fields that changed, as they were; empty for what did not exist before. Never a secret."""
    after: Mapped[dict[str, Any]] = mapped_column(JSONB)
    """The fields after the change; never a secret."""
    request_id: Mapped[str | None]
    address: Mapped[str | None]
    """Where the request came from; None for the shell and the worker."""
