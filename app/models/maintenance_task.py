"""What the runs of a maintenance task have left behind. It belongs to no workspace; TenantScope.ALL sees it."""

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
    """When its last run began. If neither succeeded_at nor failed_at is later, it is running or was cut off."""
    succeeded_at: Mapped[datetime | None]
    """When its last successful run ended."""
    failed_at: Mapped[datetime | None]
    error: Mapped[str | None]
    """The error of its last failed run; kept after later successes."""
    failures_in_a_row: Mapped[int] = mapped_column(server_default=_NONE)
    has_more: Mapped[bool] = mapped_column(server_default=false())
    """The last run ended for lack of time: the next one need not wait for its interval."""
    runs: Mapped[int] = mapped_column(server_default=_NONE)
    failures: Mapped[int] = mapped_column(server_default=_NONE)
    rows_done: Mapped[int] = mapped_column(server_default=_NONE)
    """Of all runs together; the task's description says what a row is."""
    seconds: Mapped[float] = mapped_column(server_default=_NONE)
    """How long the last run took."""
    seconds_total: Mapped[float] = mapped_column(server_default=_NONE)
