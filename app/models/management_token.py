"""A management token: the credential of an operator, bound to one workspace."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, WithinWorkspace


class ManagementToken(WithinWorkspace, Base):
    """Opens the management API of its workspace and nothing else."""

    __tablename__ = "management_tokens"
    __table_args__ = (Index("ix_management_tokens_workspace_id", "workspace_id"),)

    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"))
    label: Mapped[str] = mapped_column(server_default="")
    secret_hash: Mapped[str]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    def __repr__(self) -> str:
        return f"ManagementToken(public_id={self.public_id!r})"
