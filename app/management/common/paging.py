"""Keyset pages, one way for all lists: by time and id; what is added meanwhile neither repeats nor hides a row.

A cursor is the public id of the last row shown, signed for one workspace, one list and its filters. Rows are
archived and never deleted, so that row can always be found again.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from itsdangerous import BadData, URLSafeSerializer
from sqlalchemy import Select, tuple_
from sqlalchemy.orm import Session

from app.errors import Fault, SchemaValidationFailed
from app.models.base import OwnedRow

Item = TypeVar("Item")

LIMIT_MAX: Final = 200
LIMIT_DEFAULT: Final = 50
_FOREIGN_CURSOR: Final = "Not a next_cursor of this list with these filters."


@dataclass(frozen=True, slots=True)
class PageRequest:
    """How many, and from where on."""

    limit: int
    cursor: str | None
    secret_keys: tuple[str, ...] = field(repr=False)
    """The first signs, all verify."""


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items of a list, and the cursor to go on with; None at its end."""

    data: tuple[Item, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Listing(Generic[Item]):
    """One list of one workspace."""

    model: type[OwnedRow]
    workspace_id: int
    name: str
    """Tells it from all other lists, filters included."""
    query: Select[Any]
    """Rows that begin with a `model`."""
    show: Callable[..., Item]
    """Turns such a row, spread out, into an item."""
    is_oldest_first: bool = False
    """For lists that are read from their beginning; the others begin with the newest."""

    def page(self, session: Session, request: PageRequest) -> Page[Item]:
        """The page that `request` asks for. Raises SchemaValidationFailed for another list's cursor."""
        order = (self.model.created_at, self.model.id)
        query = self.query.order_by(*(order if self.is_oldest_first else [column.desc() for column in order]))
        query = query.limit(request.limit + 1)
        serializer = self._serializer(request)
        if request.cursor is not None:
            place, position = tuple_(*order), self._position(serializer, request.cursor)
            query = query.where(place > position if self.is_oldest_first else place < position)
        rows = session.execute(query).all()
        shown = rows[: request.limit]
        is_last = len(rows) == len(shown)
        cursor = None if is_last else str(serializer.dumps(shown[-1][0].public_id))
        return Page(tuple(self.show(*row) for row in shown), cursor)

    def _position(self, serializer: URLSafeSerializer, cursor: str) -> Any:
        try:
            public_id = serializer.loads(cursor)
        except BadData:
            raise SchemaValidationFailed(faults=(Fault("/cursor", _FOREIGN_CURSOR),)) from None
        last = self.model.within(self.workspace_id).where(self.model.public_id == public_id)
        columns = (self.model.created_at, self.model.id)
        return tuple_(*(last.with_only_columns(column).scalar_subquery() for column in columns))

    def _serializer(self, request: PageRequest) -> URLSafeSerializer:
        # itsdangerous signs with the last key of its list.
        return URLSafeSerializer(
            list(reversed(request.secret_keys)),
            salt=f"lariba cursor {self.workspace_id} {self.name}",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )
