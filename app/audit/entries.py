"""The only writer of the audit log: a mutation and its entry commit together or not at all.

app/management records what operators change, app/maintenance what expires. Both use these functions, so that columns
and moments are written in one way.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import insert
from sqlalchemy.orm import Session

from app.models import AuditEntry

WORKER: Final = "worker"
"""The actor of an expiry; no token's id is written like it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Author:
    """Who made a mutation, in which workspace, in which request and from which address."""

    workspace_id: int
    actor: str
    request_id: str | None = None
    address: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutation:
    """What was done to which object, and its fields before and after; never a secret."""

    action: str
    """Object and verb, such as `source_key.revoke`."""
    object_id: str
    project_row: int | None
    """The project that the object lies in; None for what belongs to the whole workspace."""
    after: Mapping[str, Any]
    before: Mapping[str, Any] = field(default_factory=dict)


def expiry(
    kind: str, public_id: str, project_row: int | None, *, marked_before: datetime | None, expired_at: datetime | None
) -> Mutation:
    """The one entry of a credential's expiry; `kind` is source_key or management_token."""
    return Mutation(
        action=f"{kind}.expire",
        object_id=public_id,
        project_row=project_row,
        before={"expired_at": marked_before},
        after={"expired_at": expired_at},
    )


def record(session: Session, author: Author, mutation: Mutation) -> None:
    """Add the entry of a mutation."""
    session.add(AuditEntry(**_columns(author, mutation)))


def record_all(session: Session, mutations: Iterable[tuple[Author, Mutation]]) -> None:
    """As record(), in one statement for however many."""
    if entries := [_columns(author, mutation) for author, mutation in mutations]:
        session.execute(insert(AuditEntry), entries)


def _columns(author: Author, mutation: Mutation) -> dict[str, Any]:
    return {
        "workspace_id": author.workspace_id,
        "project_id": mutation.project_row,
        "actor": author.actor,
        "action": mutation.action,
        "object_id": mutation.object_id,
        "before": {name: _plain(value) for name, value in mutation.before.items()},
        "after": {name: _plain(value) for name, value in mutation.after.items()},
        "request_id": author.request_id,
        "address": author.address,
    }


def _plain(value: Any) -> Any:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
