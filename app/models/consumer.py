"""A consumer: a place in a project's feed that is kept for those who follow it."""

from datetime import datetime
from functools import partial
from secrets import randbits
from typing import Final
from uuid import UUID

from sqlalchemy import ForeignKeyConstraint, UniqueConstraint, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, WithinWorkspace
from app.models.project import Project

CONSUMER_NAME_UNIQUE: Final = "uq_consumers_workspace_id_name"


class Consumer(WithinWorkspace, Base):
    """Its row is deleted with it: another one of the same name has another public id.

    A commit leaves `updated_at` as it is: that it gets on is no change of an operator's.
    """

    __tablename__ = "consumers"
    __table_args__ = (
        ForeignKeyConstraint(["workspace_id", "project_id"], [Project.workspace_id, Project.id]),
        UniqueConstraint("workspace_id", "name", name=CONSUMER_NAME_UNIQUE),
    )

    project_id: Mapped[int]
    name: Mapped[str]
    q: Mapped[str]
    """The query, normalized."""
    position: Mapped[int]
    event_uid: Mapped[UUID] = mapped_column(Uuid)
    """With `position`, the place behind which it reads on: all before is committed."""
    position_at: Mapped[datetime | None]
    """About when what lies just before that place was received; None: unknown, or there is nothing before it."""
    committed_at: Mapped[datetime | None]
    """When a commit moved it last; None: none has."""
    seek_number: Mapped[int] = mapped_column(default=partial(randbits, 63))
    """Random, and another one after each seek: a cursor that was given before counts for nothing after it. A restored
    database that counted seeks would come to the numbers of its lost state again.
    """
