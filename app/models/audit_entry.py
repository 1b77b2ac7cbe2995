"""The audit log: who changed what. The app's role can add entries, and neither change nor remove them."""

from datetime import datetime
from typing import Any

from sqlalchemy import Computed, ForeignKey, Index, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, OwnedRow


class AuditEntry(OwnedRow, Base):
    """One change, or one expiry that the worker has marked; written in the transaction of what it records."""

    __tablename__ = "audit_entries"
    __table_args__ = (
        Index("ix_audit_entries_object_id", "workspace_id", "object_id", "created_at", "id"),
        Index("ix_audit_entries_actor", "workspace_id", "actor", "created_at", "id"),
        Index("ix_audit_entries_action", "workspace_id", "action", "created_at", "id"),
        Index("ix_audit_entries_object_kind", "workspace_id", "object_kind", "created_at", "id"),
        Index("ix_audit_entries_project_id", "workspace_id", "project_id", "created_at", "id"),
        Index("ix_audit_entries_created_at", "workspace_id", "created_at", "id"),
    )

    public_id: Mapped[str] = mapped_column(
        unique=True, server_default=text("('aud_'::text || replace((gen_random_uuid())::text, '-'::text, ''::text))")
    )
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"), primary_key=True)
    """Part of the key, so that no index is of ids alone: by id, a workspace's entries lie between those of others."""
    project_id: Mapped[int | None]
    """The project that the object lies in; None for what belongs to the whole workspace."""
    actor: Mapped[str]
    """`tok_…` for a management token, `cli` for the operator's shell, `worker` for an expiry."""
    action: Mapped[str]
    """Object and verb, such as `source_key.revoke`."""
    object_kind: Mapped[str] = mapped_column(Computed("split_part(action, '.'::text, 1)", persisted=True))
    """The part of the action before its dot. A column, because below row security no index serves a prefix."""
    object_id: Mapped[str]
    before: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")
    """The fields that changed, as they were; empty for what did not exist before. Never a secret."""
    after: Mapped[dict[str, Any]] = mapped_column(JSONB)
    """The fields after the change; never a secret."""
    request_id: Mapped[str | None]
    address: Mapped[str | None]
    """The client's address; None for the shell and the worker."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    """When it was written, and not when its transaction began: of two changes that queued for a row, the one that came
    second is listed second."""
