"""The audit trail's only pen: a change and the entry that tells of it commit together or not at all."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from app.management.operators import Operator
from app.models import AuditEntry


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What an entry tells: what was done to which object, and its fields before and after; never a secret."""

    action: str
    object_id: str
    project_row: int | None
    """The project that the object lies in; None for what belongs to the whole workspace."""
    after: Mapping[str, Any]
    before: Mapping[str, Any] = field(default_factory=dict)


def record(session: Session, operator: Operator, change: Change) -> None:
    """Write down what `operator` did."""
    session.add(AuditEntry(**entry_of(operator, change)))


def entry_of(operator: Operator, change: Change) -> dict[str, Any]:
    """The columns of an entry."""
    return {
        "workspace_id": operator.workspace_id,
        "project_id": change.project_row,
        "actor": operator.actor,
        "action": change.action,
        "object_id": change.object_id,
        "before": {name: _plain(value) for name, value in change.before.items()},
        "after": {name: _plain(value) for name, value in change.after.items()},
        "request_id": operator.request_id,
        "address": operator.address,
    }


def _plain(value: Any) -> Any:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
