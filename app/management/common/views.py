"""What readers see of an object: frozen values without inner ids or hashes."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeVar

from app.management.common.etags import etag_of

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    id: str
    created_at: datetime
    updated_at: datetime

    @property
    def etag(self) -> str:
        return etag_of(self.id, self.updated_at)


def copy_of(kind: type[Value], row: Any, **computed: Any) -> Value:
    """A `kind`, a dataclass: its fields are copied from the columns of the same names, except what is `computed`."""
    names = [field.name for field in fields(kind) if field.name not in computed]  # type: ignore[arg-type]
    return kind(**{name: getattr(row, name) for name in names}, **computed)


def view_of(kind: type[Value], row: Any, **computed: Any) -> Value:
    """As copy_of(), for a view: its id is the row's public id."""
    return copy_of(kind, row, id=row.public_id, **computed)
