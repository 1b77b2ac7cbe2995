"""Finds one object by its public id, inside the workspace in which the query began."""

import re
from typing import Any, Final

from sqlalchemy import Select
from sqlalchemy.orm import Session

from app.database.advisory_locks import exclude_parents, exclude_workspace, share_parents
from app.errors import NotFound, PreconditionFailed
from app.management.common.etags import Target, etag_of
from app.management.common.operators import Operator
from app.models import Environment, Project, Source
from app.models.base import OwnedRow, WithinWorkspace

PUBLIC_ID: Final = "[0-9A-Za-z_]{1,64}"
# Whatever else a caller may write (10,000 characters; U+0000, which PostgreSQL refuses) is nobody's id.
_PUBLIC_ID = re.compile(PUBLIC_ID)
# What can get children. Only who changes it takes the lock alone that all share who make a child in it.
_PARENTS: Final = (Project, Environment, Source)


def is_public_id(text: str) -> bool:
    """Whether `text` could be somebody's public id."""
    return _PUBLIC_ID.fullmatch(text) is not None


def find(session: Session, query: Select[Any], model: type[OwnedRow], public_id: str) -> tuple[Any, ...]:
    """The row of `query` whose `model` has this public id.

    Raises NotFound, alike for strangers' and random ids.
    """
    row = None
    if is_public_id(public_id):
        row = session.execute(query.where(model.public_id == public_id)).one_or_none()
    if row is None:
        raise NotFound
    return tuple(row)


def find_parent(
    session: Session, operator: Operator, query: Select[Any], model: type[WithinWorkspace], public_id: str
) -> tuple[Any, ...]:
    """As find(), for an object about to get a child: it and what is above it stay unarchived until we commit."""
    share_parents(session, operator.workspace_id)
    return find(session, query, model, public_id)


def find_to_change(
    session: Session, operator: Operator, query: Select[Any], model: type[WithinWorkspace], target: Target
) -> tuple[Any, ...]:
    """As find(), for an object about to be changed: no other change of it begins until we commit.

    Raises PreconditionFailed if it is no longer in the state that the caller has seen.
    """
    if model in _PARENTS:
        exclude_parents(session, operator.workspace_id)
    locking = query.with_for_update(key_share=True, of=model).execution_options(populate_existing=True)
    row = find(session, locking, model, target.public_id)
    held = row[0]
    if not target.condition.is_met_by(etag_of(held.public_id, held.updated_at)):
        raise PreconditionFailed
    return row


def find_to_withhold(
    session: Session, operator: Operator, query: Select[Any], model: type[WithinWorkspace], target: Target
) -> tuple[Any, ...]:
    """As find_to_change(), for a change that takes a right away: no event is stored until we commit.

    First the row and then the barrier: what waits for the row does not keep the workspace's events waiting. The row is
    read again in the end, because what is joined to it (a successor, a parent) may have changed during the wait.
    """
    find_to_change(session, operator, query, model, target)
    exclude_workspace(session, operator.workspace_id)
    return find(session, query, model, target.public_id)
