"""Keyset pages, one way for all lists: by time and id; a row that is added or deleted meanwhile hides none.

A cursor holds when the last row shown was made, and its public id, signed for one workspace, one list and its filters.
The inner id, which orders the rows of one moment, counts over all workspaces: it is looked up, and no caller sees it.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

from itsdangerous import BadData, URLSafeSerializer
from sqlalchemy import Select, func, literal, tuple_
from sqlalchemy.orm import Session

from app.errors import Fault, SchemaValidationFailed
from app.management.common.lookup import model_of

Item = TypeVar("Item")

LIMIT_MAX: Final = 200
LIMIT_DEFAULT: Final = 50
_ID_MAX: Final = (1 << 63) - 1
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
        serializer = cursor_serializer(request.secret_keys, f"{workspace_id} list {self.name}")
        if request.cursor is not None:
            row, last = tuple_(*order), self._last_shown(workspace_id, serializer, request.cursor)
            query = query.where(row > last if self.is_oldest_first else row < last)
        rows = session.execute(query).all()
        shown = rows[: request.limit]
        is_last = len(rows) == len(shown)
        cursor = None
        if not is_last:
            last_shown = shown[-1][0]
            cursor = str(serializer.dumps([last_shown.created_at.isoformat(), last_shown.public_id]))
        return Page(tuple(self.view(*row) for row in shown), cursor)

    def _last_shown(self, workspace_id: int, serializer: URLSafeSerializer, cursor: str) -> Any:
        """Time and id of the last row shown.

        One that was deleted meanwhile has no id any more: the page begins with all rows of its moment, of which some
        may have been shown. There are others only if their transactions began in the same microsecond.
        """
        try:
            created_at, public_id = serializer.loads(cursor)
        except BadData:
            raise SchemaValidationFailed(faults=(Fault("/cursor", _FOREIGN_CURSOR),)) from None
        model = model_of(self.query)
        row_id = model.within(workspace_id).where(model.public_id == public_id).with_only_columns(model.id)
        edge = 0 if self.is_oldest_first else _ID_MAX
        moment = literal(datetime.fromisoformat(created_at), model.created_at.type)
        return tuple_(moment, func.coalesce(row_id.scalar_subquery(), edge))


def cursor_serializer(secret_keys: tuple[str, ...], scope: str) -> URLSafeSerializer:
    """Signs the cursors of `scope` and reads no others. Of `secret_keys` the first signs, and all verify."""
    return URLSafeSerializer(
        # itsdangerous signs with the last key of its list.
        list(reversed(secret_keys)),
        salt=f"lariba cursor {scope}",
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )
