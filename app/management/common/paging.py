"""Keyset pages, one way for all lists: by time and id; a row that is added meanwhile repeats or hides none.

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
from app.management.common.lookup import model_of

Item = TypeVar("Item")

LIMIT_MAX: Final = 200
LIMIT_DEFAULT: Final = 50
_FOREIGN_CURSOR: Final = "Not a next_cursor of this list with these filters."


@dataclass(frozen=True, slots=True)
class PageRequest:
    """How many rows, and after which one."""

    limit: int
    cursor: str | None
    secret_keys: tuple[str, ...] = field(repr=False)
    """The first signs, all verify."""


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items of a list, and the cursor of the next page; None at its end."""

    data: tuple[Item, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Listing(Generic[Item]):
    """One list of one workspace."""

    name: str
    """Distinguishes it from all other lists, filters included."""
    query: Select[Any]
    view: Callable[..., Item]
    """Makes an item of a row of `query`, spread out."""
    is_oldest_first: bool = False
    """For lists that are read from their beginning; the others begin with the newest."""

    def page(self, session: Session, workspace_id: int, request: PageRequest) -> Page[Item]:
        """The page that `request` asks for. Raises SchemaValidationFailed for another list's cursor."""
        model = model_of(self.query)
        order = (model.created_at, model.id)
        query = self.query.order_by(*(order if self.is_oldest_first else [column.desc() for column in order]))
        query = query.limit(request.limit + 1)
        serializer = self._serializer(workspace_id, request)
        if request.cursor is not None:
            row, position = tuple_(*order), self._position(workspace_id, serializer, request.cursor)
            query = query.where(row > position if self.is_oldest_first else row < position)
        rows = session.execute(query).all()
        shown = rows[: request.limit]
        is_last = len(rows) == len(shown)
        cursor = None if is_last else str(serializer.dumps(shown[-1][0].public_id))
        return Page(tuple(self.view(*row) for row in shown), cursor)

    def _position(self, workspace_id: int, serializer: URLSafeSerializer, cursor: str) -> Any:
        try:
            public_id = serializer.loads(cursor)
        except BadData:
            raise SchemaValidationFailed(faults=(Fault("/cursor", _FOREIGN_CURSOR),)) from None
        model = model_of(self.query)
        last = model.within(workspace_id).where(model.public_id == public_id)
        return tuple_(*(last.with_only_columns(each).scalar_subquery() for each in (model.created_at, model.id)))

    def _serializer(self, workspace_id: int, request: PageRequest) -> URLSafeSerializer:
        # itsdangerous signs with the last key of its list.
        return URLSafeSerializer(
            list(reversed(request.secret_keys)),
            salt=f"lariba cursor {workspace_id} {self.name}",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )
