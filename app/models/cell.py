"""The cells that this one knows of. They belong to no workspace; every scope sees them."""

from datetime import datetime

from sqlalchemy import Index, false, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base


class Cell(Base):
    """A cell, by its name; without a row for itself, this one has no name."""

    __tablename__ = "cells"
    __table_args__ = (Index("uq_cells_is_own", "is_own", unique=True, postgresql_where=text("is_own")),)

    name: Mapped[str] = mapped_column(primary_key=True)
    is_own: Mapped[bool] = mapped_column(server_default=false())
    is_draining: Mapped[bool] = mapped_column(server_default=false())
    """No new workspace is made in it."""
    added_at: Mapped[datetime] = mapped_column(server_default=func.now())
