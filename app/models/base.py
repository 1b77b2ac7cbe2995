"""What every table shares: names of constraints, types of columns, and queries that begin inside a workspace."""

from datetime import datetime
from typing import Any, ClassVar, Final, Self

from sqlalchemy import BigInteger, DateTime, Identity, MetaData, Select, Text, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# A refusal and a migration can refer to a constraint by name; PostgreSQL's own names differ by version.
_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
CODE_POINTS: Final = Text(collation="C")
"""Text in the order of code points: that of a locale changes with the C library, and indexes rely on it."""


class Base(DeclarativeBase):
    """All tables."""

    metadata = MetaData(naming_convention=_NAMES)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        int: BigInteger,
        str: CODE_POINTS,
        datetime: DateTime(timezone=True),
    }


class PublicRow:
    """A row that the API shows: an inner id for joins, a public one for clients, and when it was made."""

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    public_id: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ControlRow(PublicRow):
    """A row of the control plane, which its operators change."""

    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """When an operator changed it last; every change binds it, later than the one before (etags.py)."""


class OwnedRow(PublicRow):
    """A row that belongs to a workspace; a query for it begins with within()."""

    workspace_id: Mapped[int]

    @classmethod
    def within(cls, workspace_id: int) -> Select[Self]:
        """The rows of one workspace."""
        return select(cls).where(cls.workspace_id == workspace_id)


class WithinWorkspace(OwnedRow, ControlRow):
    """A row of the control plane that belongs to a workspace."""
