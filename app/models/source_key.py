"""A source key: the credential of a source. Its public id holds the key id that stands in the key itself."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index, Integer, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import CODE_POINTS, Base, WithinWorkspace
from app.models.source import Source


class SourceKey(WithinWorkspace, Base):
    """Issued once, shown once; a revocation is final."""

    __tablename__ = "source_keys"
    __table_args__ = (
        ForeignKeyConstraint(
            ["workspace_id", "project_id", "source_id"], [Source.workspace_id, Source.project_id, Source.id]
        ),
        # A key replaces one of the same source.
        ForeignKeyConstraint(
            ["workspace_id", "project_id", "source_id", "replaces_id"],
            [f"source_keys.{column}" for column in ("workspace_id", "project_id", "source_id", "id")],
        ),
        UniqueConstraint("workspace_id", "project_id", "source_id", "id"),
        Index("ix_source_keys_source_id", "source_id"),
        # The workspace's keys, newest first.
        Index("ix_source_keys_created_at", "workspace_id", "created_at", "id"),
        CheckConstraint("events_per_second > 0", name="events_per_second"),
        CheckConstraint("allowed_origins IS NULL OR allowed_event_types IS NOT NULL", name="browser"),
        CheckConstraint(
            "cardinality(allowed_event_types) > 0 AND cardinality(allowed_origins) > 0"
            " AND cardinality(allowed_networks) > 0",
            name="policies",
        ),
        # A preflight has no key, so is_origin_allowed asks all of them.
        Index(
            "ix_source_keys_allowed_origins",
            "allowed_origins",
            postgresql_using="gin",
            postgresql_where=text("allowed_origins IS NOT NULL"),
        ),
        # Every process reads all limits every two seconds; few keys have one.
        Index("ix_source_keys_limited", "id", postgresql_where=text("events_per_second IS NOT NULL")),
        # An expiry to come, or one that bears no mark yet (app/maintenance/key_life.py).
        Index(
            "ix_source_keys_unmarked",
            "expires_at",
            postgresql_where=text("revoked_at IS NULL AND expired_at IS DISTINCT FROM expires_at"),
        ),
    )

    project_id: Mapped[int]
    source_id: Mapped[int]
    label: Mapped[str] = mapped_column(server_default="")
    secret_hash: Mapped[str]
    secret_digest: Mapped[bytes | None]
    """Of the whole credential, keyed with the server's secret; None until argon2 has proven it once."""
    expires_at: Mapped[datetime | None]
    expired_at: Mapped[datetime | None]
    """The expiry that the worker has marked as past. Counts only while it equals expires_at."""
    revoked_at: Mapped[datetime | None]
    events_per_second: Mapped[int | None] = mapped_column(Integer)
    """None: the workspace's default, and then the installation's."""
    replaces_id: Mapped[int | None] = mapped_column(unique=True)
    """The key that it was rotated from; a key has one successor at most."""
    allowed_event_types: Mapped[list[str] | None] = mapped_column(ARRAY(CODE_POINTS))
    """Types, or prefixes such as `payment.*`. None: all."""
    allowed_origins: Mapped[list[str] | None] = mapped_column(ARRAY(CODE_POINTS))
    """Not None makes it a browser key: it sends from these origins only, and events of its types only."""
    allowed_networks: Mapped[list[str] | None] = mapped_column(ARRAY(CODE_POINTS))
    """CIDR, IPv4 and IPv6. None: all."""
    first_used_at: Mapped[datetime | None]
    last_addresses: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default="[]")
    """The last addresses that sent it, newest first; ten at the most. Written by the worker."""
    last_used_at: Mapped[datetime | None]
    """When it last sent an event; written by the worker, a few seconds late, and never backward."""

    def __repr__(self) -> str:
        return f"SourceKey(public_id={self.public_id!r})"
