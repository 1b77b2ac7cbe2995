"""A management token: the credential of an operator, bound to one workspace."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, WithinWorkspace


class ManagementToken(WithinWorkspace, Base):
    """Valid for the management API of its workspace and nothing else."""

    __tablename__ = "management_tokens"
    __table_args__ = (
        # The workspace's tokens, newest first.
        Index("ix_management_tokens_created_at", "workspace_id", "created_at", "id"),
        # As for source keys.
        Index(
            "ix_management_tokens_unmarked",
            "expires_at",
            postgresql_where=text("revoked_at IS NULL AND expired_at IS DISTINCT FROM expires_at"),
        ),
        CheckConstraint("role IN ('owner', 'admin', 'developer', 'auditor')", name="role"),
        CheckConstraint("cardinality(project_ids) > 0", name="project_ids"),
    )

    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"))
    label: Mapped[str] = mapped_column(server_default="")
    role: Mapped[str] = mapped_column(server_default="owner")
    project_ids: Mapped[list[int] | None] = mapped_column(ARRAY(BigInteger))
    """The rows of the projects that it is for; None: all of the workspace."""
    secret_hash: Mapped[str]
    secret_digest: Mapped[bytes | None]
    """Of the whole credential, keyed with the server's secret; None until argon2 has proven it once."""
    expires_at: Mapped[datetime | None]
    expired_at: Mapped[datetime | None]
    """The expiry that the worker has marked as past."""
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    """When it was last accepted, to the minute."""

    def __repr__(self) -> str:
        return f"ManagementToken(public_id={self.public_id!r})"
