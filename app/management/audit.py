"""The audit trail's only pen: a change and the entry that tells of it commit together or not at all."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from app.management.operators import Operator
from app.models import AuditEntry


def record(session: Session, operator: Operator, action: str, object_id: str, changes: Mapping[str, Any]) -> None:
    """Write down what `operator` did; `changes` holds the fields after the change and never a secret."""
    entry = AuditEntry(
        workspace_id=operator.workspace_id,
        actor=operator.actor,
        action=action,
        object_id=object_id,
        changes={name: _plain(value) for name, value in changes.items()},
        request_id=operator.request_id,
    )
    session.add(entry)


def _plain(value: Any) -> Any:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
