"""Finds one object by its public id, inside the workspace in which the query began."""

import re
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, true
from sqlalchemy.orm import Session

from app.database.advisory_locks import exclude_parents, exclude_workspace, share_parents
from app.errors import NotFound, PreconditionFailed
from app.management.common.etags import Target, etag_of
from app.management.common.operators import Operator
from app.models import Environment, Project, Source
from app.models.base import OwnedRow

PUBLIC_ID: Final = "[0-9A-Za-z_]{1,64}"
# Other texts of a caller are refused before the query: U+0000 would make PostgreSQL fail.
_PUBLIC_ID = re.compile(PUBLIC_ID)
# What can get children. A change of one takes the lock exclusively that the creation of a child shares.
_PARENTS: Final = (Project, Environment, Source)


def is_public_id(text: str) -> bool:
    """Whether `text` has the form of a public id."""
    return _PUBLIC_ID.fullmatch(text) is not None


def model_of(query: Select[Any]) -> type[OwnedRow]:
    """The model whose rows come first in the rows of `query`."""
    model: type[OwnedRow] = query.column_descriptions[0]["entity"]
    return model


def equal_if_given(column: Any, value: object) -> ColumnElement[bool]:
    """A filter's condition: the column has this value; a value of None filters nothing."""
    condition: ColumnElement[bool] = true() if value is None else column == value
    return condition


def find(session: Session, query: Select[Any], public_id: str) -> tuple[Any, ...]:
    """The row of `query` whose first object has this public id.

    Raises NotFound, alike for ids of other workspaces and random ones.
    """
    row = None
    if is_public_id(public_id):
        row = session.execute(query.where(model_of(query).public_id == public_id)).one_or_none()
    if row is None:
        raise NotFound
    return tuple(row)


def find_parent(session: Session, operator: Operator, query: Select[Any], public_id: str) -> tuple[Any, ...]:
    """As find(), for an object about to get a child: it and what is above it stay unarchived until the commit."""
    share_parents(session, operator.workspace_id)
    return find(session, query, public_id)


def find_to_change(session: Session, operator: Operator, query: Select[Any], target: Target) -> tuple[Any, ...]:
    """As find(), for an object about to be changed: no other change of it begins until the commit.

    Raises PreconditionFailed if its state is another one than the caller has read.
    """
    model = model_of(query)
    if model in _PARENTS:
        exclude_parents(session, operator.workspace_id)
    locking = query.with_for_update(key_share=True, of=model).execution_options(populate_existing=True)
    row = find(session, locking, target.public_id)
    locked = row[0]
    if not target.condition.is_met_by(etag_of(locked.public_id, locked.updated_at)):
        raise PreconditionFailed
    return row


def find_behind_barrier(session: Session, operator: Operator, query: Select[Any], target: Target) -> tuple[Any, ...]:
    """As find_to_change(), for a change that takes a right away: no event is stored from here until the commit.

    First the row lock, then the barrier: while this transaction waits for the row, the workspace's events do not wait.
    The row is read again at the end, because what is joined to it (a successor, a parent) may have changed meanwhile.
    """
    find_to_change(session, operator, query, target)
    exclude_workspace(session, operator.workspace_id)
    return find(session, query, target.public_id)
