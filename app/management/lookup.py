"""Finds one object by its public id, inside the workspace in which the query began."""

import re
from typing import Any, Final

from sqlalchemy import Select
from sqlalchemy.orm import Session

from app.errors import NotFound, PreconditionFailed
from app.management.revisions import Target, etag_of
from app.models.base import OwnedRow, WithinWorkspace

PUBLIC_ID: Final = "[0-9A-Za-z_]{1,64}"
# Whatever else a caller may write (10,000 characters; U+0000, which PostgreSQL refuses) is nobody's id.
_PUBLIC_ID = re.compile(PUBLIC_ID)


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


def find_parent(session: Session, query: Select[Any], model: type[WithinWorkspace], public_id: str) -> tuple[Any, ...]:
    """As find(), for an object about to get a child: it and what is above it stay unarchived until we commit.

    FOR SHARE, because the lock that a foreign key takes lets an archiving UPDATE pass.
    """
    return find(session, query.with_for_update(read=True), model, public_id)


def find_to_change(
    session: Session, query: Select[Any], model: type[WithinWorkspace], target: Target
) -> tuple[Any, ...]:
    """As find(), for an object about to be changed: nobody else changes it until we commit.

    Raises PreconditionFailed if it is no longer in the state that the caller has seen.
    """
    row = find(session, query.with_for_update(key_share=True, of=model), model, target.public_id)
    held = row[0]
    if not target.condition.is_met_by(etag_of(held.public_id, held.updated_at)):
        raise PreconditionFailed
    return row
