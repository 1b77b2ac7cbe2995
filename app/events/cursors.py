"""Signs and reads the cursors of search, feed and export: a position in one answer, of no use for any other."""

from typing import Any, Final

from itsdangerous import BadData

from app.errors import Fault, SchemaValidationFailed
from app.management.common.operators import Operator
from app.management.common.paging import cursor_serializer

_FOREIGN: Final = "Not a next_cursor of this query, project and token."


class Cursors:
    """Cursors of one query and caller; `name` distinguishes the query from all others of the caller."""

    def __init__(self, secret_keys: tuple[str, ...], operator: Operator, name: str) -> None:
        """Of `secret_keys` the first signs, and all verify."""
        self._serializer = cursor_serializer(secret_keys, f"{operator.workspace_id} {operator.actor} {name}")

    def sign(self, position: list[Any]) -> str:
        """A cursor that holds `position`, of JSON's values."""
        return str(self._serializer.dumps(position))

    def read(self, cursor: str) -> list[Any]:
        """The position in a cursor. Raises SchemaValidationFailed if it is none of this query."""
        try:
            position: list[Any] = self._serializer.loads(cursor)
        except BadData:
            raise foreign_cursor() from None
        return position


def foreign_cursor() -> SchemaValidationFailed:
    """The refusal of a cursor that belongs to another query."""
    return SchemaValidationFailed(faults=(Fault("/cursor", _FOREIGN),))
