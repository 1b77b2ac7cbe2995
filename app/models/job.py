"""What exports and replays have in common: a query of one project that the worker works off in turns."""

from datetime import datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import Integer, func
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import WithinWorkspace


class JobState(StrEnum):
    QUEUED = "queued"
    """No turn yet."""
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


PENDING: Final = (JobState.QUEUED, JobState.RUNNING)
"""The states of a job that gets further turns."""


class JobRow(WithinWorkspace):
    """Columns of a job; a turn changes it only while its state is RUNNING, so a cancelled one stays cancelled."""

    project_id: Mapped[int]
    requested_by: Mapped[str]
    """The public id of the token, or the shell."""
    q: Mapped[str] = mapped_column(server_default="")
    """As print_query() writes it."""
    begins_at: Mapped[datetime]
    """Of receipt, inclusive; the range was frozen when the job was made."""
    ends_at: Mapped[datetime]
    """Exclusive."""
    state: Mapped[str] = mapped_column(server_default=JobState.QUEUED)
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    turn_at: Mapped[datetime | None]
    """When its last turn began."""
    progressed_at: Mapped[datetime | None]
    """When a turn has last noted something; None: none has."""
    due_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """The next turn comes no sooner; a throttled job sets it."""
    attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    """How many turns it has had since the last one that noted something."""
    events: Mapped[int] = mapped_column(server_default="0")
    """How many have been worked off."""
    failure: Mapped[str | None]
    """Why it failed: the code of a refusal (docs/errors.md), or a word that its kind documents."""
