"""What the runs of a maintenance task have left behind. Of no workspace: only who sees all of them sees it."""

from datetime import datetime

from sqlalchemy import false
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base

_NONE = "0"


class MaintenanceTask(Base):
    """One task of app/maintenance/schedule.py; a row is made by its first run."""

    __tablename__ = "maintenance_tasks"
    name: Mapped[str] = mapped_column(primary_key=True)
    started_at: Mapped[datetime | None]
    """When its last run began. Neither succeeded_at nor failed_at behind it: it runs, or was cut off."""
    succeeded_at: Mapped[datetime | None]
    """When its last good run was over."""
    failed_at: Mapped[datetime | None]
    error: Mapped[str | None]
    """What its last bad run ended with; kept after good ones, for whoever looks in the morning."""
    failures_in_a_row: Mapped[int] = mapped_column(server_default=_NONE)
    has_more: Mapped[bool] = mapped_column(server_default=false())
    """The last run ended for lack of time: the next one need not wait."""
    runs: Mapped[int] = mapped_column(server_default=_NONE)
    failures: Mapped[int] = mapped_column(server_default=_NONE)
    rows_done: Mapped[int] = mapped_column(server_default=_NONE)
    """Of all runs together; what a row is, the task's description says."""
    seconds: Mapped[float] = mapped_column(server_default=_NONE)
    """How long the last run took."""
    seconds_total: Mapped[float] = mapped_column(server_default=_NONE)
