"""The audit trail's only pen: a change and the entry that tells of it commit together or not at all.

It lies on the ground floor because two rooms write with it: app/management, where operators change things, and
app/maintenance, which knows nothing of operators and notes what time has done. SQL of the worker's own would be a
second hand, with its own idea of the columns and of how a moment is written.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import insert
from sqlalchemy.orm import Session

from app.models import AuditEntry

WORKER: Final = "worker"
"""The actor of what time has done; no token's id is written like it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Author:
    """Who did it, in which workspace, and how it came to us."""

    workspace_id: int
    actor: str
    request_id: str | None = None
    address: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What an entry tells: what was done to which object, and its fields before and after; never a secret."""

    action: str
    object_id: str
    project_row: int | None
    """The project that the object lies in; None for what belongs to the whole workspace."""
    after: Mapping[str, Any]
    before: Mapping[str, Any] = field(default_factory=dict)


def expiry(
    kind: str, public_id: str, project_row: int | None, *, marked_before: datetime | None, expired_at: datetime | None
) -> Change:
    """The one entry that the expiry of a credential has; `kind` is source_key or management_token."""
    return Change(
        action=f"{kind}.expire",
        object_id=public_id,
        project_row=project_row,
        before={"expired_at": marked_before},
        after={"expired_at": expired_at},
    )


def record(session: Session, author: Author, change: Change) -> None:
    """Write down what `author` did."""
    session.add(AuditEntry(**_columns(author, change)))


def record_all(session: Session, changes: Iterable[tuple[Author, Change]]) -> None:
    """As record(), in one statement for however many."""
    if entries := [_columns(author, change) for author, change in changes]:
        session.execute(insert(AuditEntry), entries)


def _columns(author: Author, change: Change) -> dict[str, Any]:
    return {
        "workspace_id": author.workspace_id,
        "project_id": change.project_row,
        "actor": author.actor,
        "action": change.action,
        "object_id": change.object_id,
        "before": {name: _plain(value) for name, value in change.before.items()},
        "after": {name: _plain(value) for name, value in change.after.items()},
        "request_id": author.request_id,
        "address": author.address,
    }


def _plain(value: Any) -> Any:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
