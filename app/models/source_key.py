"""A source key: the credential of a source. Its public id holds the key id that the key itself shows."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index, Integer, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import CODE_POINTS, Base, WithinWorkspace
from app.models.source import Source


class SourceKey(WithinWorkspace, Base):
    """Issued once, shown once, revoked for good."""

    __tablename__ = "source_keys"
    __table_args__ = (
        ForeignKeyConstraint(
            ["workspace_id", "project_id", "source_id"], [Source.workspace_id, Source.project_id, Source.id]
        ),
        # A key follows one of its own source, and of no other workspace's.
        ForeignKeyConstraint(
            ["workspace_id", "project_id", "source_id", "replaces_id"],
            [f"source_keys.{column}" for column in ("workspace_id", "project_id", "source_id", "id")],
        ),
        UniqueConstraint("workspace_id", "project_id", "source_id", "id"),
        Index("ix_source_keys_source_id", "source_id"),
        # The workspace's keys, newest first.
        Index("ix_source_keys_workspace_id", "workspace_id", "id"),
        CheckConstraint("events_per_second > 0", name="events_per_second"),
        CheckConstraint("allowed_origins IS NULL OR allowed_event_types IS NOT NULL", name="browser"),
        CheckConstraint(
            "cardinality(allowed_event_types) > 0 AND cardinality(allowed_origins) > 0"
            " AND cardinality(allowed_networks) > 0",
            name="policies",
        ),
        # A preflight has no key: whether anybody lets an origin in is asked of all keys.
        Index(
            "ix_source_keys_allowed_origins",
            "allowed_origins",
            postgresql_using="gin",
            postgresql_where=text("allowed_origins IS NOT NULL"),
        ),
        # Every process reads all limits every two seconds; few keys have one.
        Index("ix_source_keys_limited", "id", postgresql_where=text("events_per_second IS NOT NULL")),
        # Those whose expiry is still to come, or has not been seen to pass (app/maintenance/key_life.py).
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
    """The mark: the expiry that the worker has seen pass. Another one than expires_at counts for nothing."""
    revoked_at: Mapped[datetime | None]
    events_per_second: Mapped[int | None] = mapped_column(Integer)
    """None: the workspace's default, and then the installation's."""
    replaces_id: Mapped[int | None] = mapped_column(unique=True)
    """The key that it was rotated from; a key has one successor at most."""
    allowed_event_types: Mapped[list[str] | None] = mapped_column(ARRAY(CODE_POINTS))
    """Whole types, or prefixes such as `payment.*`. None: all."""
    allowed_origins: Mapped[list[str] | None] = mapped_column(ARRAY(CODE_POINTS))
    """Not None makes it a browser key, whose events come from these origins and bear a type of those."""
    allowed_networks: Mapped[list[str] | None] = mapped_column(ARRAY(CODE_POINTS))
    """CIDR, IPv4 and IPv6. None: from everywhere."""
    first_used_at: Mapped[datetime | None]
    last_addresses: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default="[]")
    """The addresses that it came from last, the newest first; bounded. Written by the worker."""
    last_used_at: Mapped[datetime | None]
    """When it last brought an event; written by the worker, a few seconds late, and never backward."""

    def __repr__(self) -> str:
        return f"SourceKey(public_id={self.public_id!r})"
