"""What every table shares: names of constraints, types of columns, and the door into a workspace."""

from datetime import datetime
from typing import Any, ClassVar, Final, Self

from sqlalchemy import BigInteger, DateTime, Identity, MetaData, Select, Text, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Named constraints can be translated into refusals and altered by migrations; PostgreSQL's own names differ by version.
_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


CODE_POINTS: Final = Text(collation="C")
"""Text whose order no locale decides: what indexes rely on must not change with the C library."""


class Base(DeclarativeBase):
    """All tables of the house."""

    metadata = MetaData(naming_convention=_NAMES)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        int: BigInteger,
        str: CODE_POINTS,
        datetime: DateTime(timezone=True),
    }


class PublicRow:
    """A row that callers know: an inner id for joins and pages, a public one for them, and when it came."""

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    public_id: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ControlRow(PublicRow):
    """A row of the control plane, which its operators change."""

    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())


class OwnedRow(PublicRow):
    """A row that belongs to a workspace; a query for it can only begin inside one."""

    workspace_id: Mapped[int]

    @classmethod
    def within(cls, workspace_id: int) -> Select[Self]:
        """The rows of one workspace: the only way to begin a query for them."""
        return select(cls).where(cls.workspace_id == workspace_id)


class WithinWorkspace(OwnedRow, ControlRow):
    """A row of the control plane that belongs to a workspace."""
