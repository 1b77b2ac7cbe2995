"""Writes a row and its audit entry together, and translates the database's "this name is taken"."""

import dataclasses
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import Enum
from types import MappingProxyType
from typing import Any, Final

from psycopg.errors import UniqueViolation
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.audit.entries import Change, record
from app.errors import Conflict, Fault
from app.management.common.idempotency import note_created
from app.management.common.operators import Operator
from app.models import ManagementToken, Project, SourceKey
from app.models.base import ControlRow, WithinWorkspace
from app.models.environment import ENVIRONMENT_NAME_UNIQUE
from app.models.project import PROJECT_NAME_UNIQUE
from app.models.source import SOURCE_NAME_UNIQUE


class Absent(Enum):
    """The type of ABSENT, so that a type checker can tell it from any value."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT
"""Stands in a change for what its caller did not mention; None would mean "empty it"."""

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_TAKEN: Final = {
    PROJECT_NAME_UNIQUE: "This workspace already has a project named {name}.",
    ENVIRONMENT_NAME_UNIQUE: "This project already has an environment named {name}.",
    SOURCE_NAME_UNIQUE: "This environment already has a source named {name}.",
}
# The second half is for who restores: what is archived cannot be renamed.
_WAY_OUT: Final = "Choose another name, or rename that one."


def mentioned(change: Any) -> dict[str, Any]:
    """What the caller of a change did mention; a change is a dataclass with fields named as columns."""
    values = {field.name: getattr(change, field.name) for field in dataclasses.fields(change)}
    return {name: value for name, value in values.items() if value is not ABSENT}


def insert(session: Session, operator: Operator, row: WithinWorkspace, action: str, shown: Mapping[str, Any]) -> None:
    """Add `row`; the trail tells what is `shown`. Raises Conflict if its name is taken."""
    session.add(row)
    _flush(session, row)
    change = Change(action=action, object_id=row.public_id, project_row=_project_of(row), after=shown)
    record(session, operator.author, change)
    is_credential = isinstance(row, SourceKey | ManagementToken)
    note_created(session, operator, row.public_id, is_credential=is_credential)


def update(
    session: Session,
    operator: Operator,
    row: ControlRow,
    action: str,
    values: Mapping[str, Any],
    told: Mapping[str, Any] = _NOTHING,
) -> None:
    """Set what differs in `values`. Nothing differs: nothing is written, also not in the trail.

    `told` is what changes of the object without being a column of its row; it stands in the trail beside the values.
    Raises Conflict if the new name is taken.
    """
    changed = {name: value for name, value in values.items() if value != getattr(row, name)}
    if not (changed or told):
        return
    before = {name: getattr(row, name) for name in changed}
    # Its query comes before the first change, which it would flush: only _flush() translates a name that is taken.
    revision = next_revision(session, row.updated_at)
    for name, value in {**changed, "updated_at": revision}.items():
        setattr(row, name, value)
    _flush(session, row)
    session.refresh(row)
    before |= dict.fromkeys(told)
    after = {**changed, **told}
    change = Change(action=action, object_id=row.public_id, project_row=_project_of(row), before=before, after=after)
    record(session, operator.author, change)


def next_revision(session: Session, updated_at: datetime) -> datetime:
    """The `updated_at` of the next state of a row that is locked and has this one.

    now() is when the transaction began: of two that queued for the row, the later writer may have begun earlier or in
    the same microsecond, and an ETag that names two states would let a lost update pass.
    """
    return max(moment(session), updated_at + timedelta(microseconds=1))


def moment(session: Session) -> datetime:
    """The database's clock, which all web servers share."""
    now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return now


def _project_of(row: ControlRow) -> int | None:
    """The project that a row lies in, if it lies in one."""
    return row.id if isinstance(row, Project) else getattr(row, "project_id", None)


def _flush(session: Session, row: Any) -> None:
    """The database decides who was first: a loser waits here for the winner's commit and is then told."""
    name = getattr(row, "name", None)  # a row cannot be read after a failed flush
    try:
        session.flush()
    except IntegrityError as error:
        cause = error.orig
        if not isinstance(cause, UniqueViolation):
            raise
        if cause.diag.constraint_name not in _TAKEN:
            # Somebody was there first, whatever it was about: the caller's matter, and the log's to look at.
            raise Conflict from error
        taken = _TAKEN[cause.diag.constraint_name].format(name=f'"{name}"')
        raise Conflict(f"{taken} {_WAY_OUT}", faults=(Fault("/name", "This name is taken."),)) from None
