"""The transaction of every mutation, which writes a row and its audit entry together.

It also translates the database's "this name is taken" into a refusal.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, TypeVar

from psycopg.errors import UniqueViolation
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.audit.entries import Mutation, record
from app.database.citus.constraints import without_shard
from app.database.engine import Database
from app.errors import Conflict, Fault
from app.management.common.idempotency import claim, note_created
from app.management.common.operators import Operator
from app.management.common.token_validity import hold_residence, hold_validity
from app.models import ManagementToken, Project, SourceKey
from app.models.base import ControlRow, WithinWorkspace
from app.models.environment import ENVIRONMENT_NAME_UNIQUE
from app.models.project import PROJECT_NAME_UNIQUE
from app.models.source import SOURCE_NAME_UNIQUE

Value = TypeVar("Value")

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_TAKEN: Final = {
    PROJECT_NAME_UNIQUE: "This workspace already has a project named {name}.",
    ENVIRONMENT_NAME_UNIQUE: "This project already has an environment named {name}.",
    SOURCE_NAME_UNIQUE: "This environment already has a source named {name}.",
}
# The second half is for a restoration: what is archived cannot be renamed.
_WAY_OUT: Final = "Choose another name, or rename that one."
# Longer than on ingest, whose producers retry by themselves. Of many operators who change one row, or ask for one name,
# the last one waits for all before it and gets its answer; a transaction that hangs keeps no connection for long.
_LOCK_TIMEOUT: Final = text("SELECT set_config('lock_timeout', '3s', true)")


@dataclass(frozen=True, slots=True)
class Change:
    """What a PATCH mentions of an object; what it does not mention stays. Its schema says which fields there are."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """By the names of the columns; None empties one."""

    def applied_to(self, value: Value) -> Value:
        """`value`, a dataclass, with the new values of those of its fields that are mentioned."""
        names = {each.name for each in fields(value)}  # type: ignore[arg-type]
        return replace(value, **{name: new for name, new in self.values.items() if name in names})  # type: ignore[type-var]


@contextmanager
def mutation(database: Database, operator: Operator) -> Iterator[Session]:
    """The transaction of one mutation.

    Raises InvalidManagementToken if the caller's token was revoked before the commit; AlreadyDoneError for a request
    that was carried out before, IdempotencyKeyReused if its key stands for another one, and IdempotencyInProgress while
    it is being carried out; WrongCell and StorageUnavailable if the workspace has left or is leaving for another cell.
    """
    with database.transaction(operator.workspace_id) as session:
        if operator.request is not None:
            claim(session, operator, operator.request)
        session.execute(_LOCK_TIMEOUT)
        yield session
        session.flush()  # what can wait, or be refused, comes before the lock that a revocation waits for
        hold_validity(session, operator)
        hold_residence(session, operator.workspace_id)


def insert(session: Session, operator: Operator, row: WithinWorkspace, action: str, after: Mapping[str, Any]) -> None:
    """Add `row`; the audit entry holds `after`. Raises Conflict if its name is taken."""
    session.add(row)
    _flush(session, row)
    _record(session, operator, row, action, {}, after)
    note_created(session, operator, row.public_id, is_credential=isinstance(row, SourceKey | ManagementToken))


def update(
    session: Session,
    operator: Operator,
    row: ControlRow,
    action: str,
    values: Mapping[str, Any],
    derived: Mapping[str, Any] = _NOTHING,
) -> None:
    """Set what differs in `values`. If nothing differs, nothing is written, also no audit entry.

    `derived` is what changes of the object without being a column of its row; the audit entry holds it as well.
    Raises Conflict if the new name is taken.
    """
    changed = {name: value for name, value in values.items() if value != getattr(row, name)}
    if not (changed or derived):
        return
    before = {name: getattr(row, name) for name in changed} | dict.fromkeys(derived)
    # Its query comes before the first change, which it would flush: only _flush() translates a name that is taken.
    updated_at = next_updated_at(session, row.updated_at)
    for name, value in {**changed, "updated_at": updated_at}.items():
        setattr(row, name, value)
    _flush(session, row)
    session.refresh(row)
    _record(session, operator, row, action, before, {**changed, **derived})


def name_taken(constraint: str, name: str | None) -> Conflict:
    """What refuses a name; `constraint` is the unique index of which it would be the second."""
    taken = _TAKEN[constraint].format(name=f'"{name}"')
    return Conflict(f"{taken} {_WAY_OUT}", faults=(Fault("/name", "This name is taken."),))


def next_updated_at(session: Session, updated_at: datetime) -> datetime:
    """The `updated_at` of the next state of a locked row whose `updated_at` is this one.

    now() is when the transaction began: of two that queued for the row, the later writer may have begun earlier or in
    the same microsecond, and an ETag that names two states would let a lost update pass.
    """
    return max(moment(session), updated_at + timedelta(microseconds=1))


def moment(session: Session) -> datetime:
    """The database's clock, which all web servers share."""
    now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return now


def _record(
    session: Session,
    operator: Operator,
    row: ControlRow,
    action: str,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
) -> None:
    project_row = row.id if isinstance(row, Project) else getattr(row, "project_id", None)
    written = Mutation(action=action, object_id=row.public_id, project_row=project_row, before=before, after=after)
    record(session, operator.author, written)


def _flush(session: Session, row: Any) -> None:
    """The unique indexes decide who was first: the second one waits here for the first one's commit and is refused."""
    name = getattr(row, "name", None)  # a row cannot be read after a failed flush
    try:
        session.flush()
    except IntegrityError as error:
        cause = error.orig
        if not isinstance(cause, UniqueViolation):
            raise
        constraint = without_shard(cause.diag.constraint_name)
        if constraint not in _TAKEN:
            raise Conflict from error  # its cause is in the log
        raise name_taken(constraint, name) from None
