"""What is wrong with a query, with its place in the text, as the refusal that callers get."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from lark import Token

from app.errors import Fault, SchemaValidationFailed
from app.events.query.nodes import Place

_NEAREST_MAX: Final = 3
# A comparison takes time in proportion to both texts: no name that is known is longer.
_COMPARED_CHARACTERS_MAX: Final = 128
_KNOWN_MAX: Final = 1_000


class Faults:
    """Gathers the faults of one query, so that all are shown at once; `pointer` says where the query came from."""

    def __init__(self, pointer: str) -> None:
        self._pointer = pointer
        self._faults: list[Fault] = []

    def add(self, place: Place, message: str, suggestions: tuple[str, ...] = ()) -> None:
        self._faults.append(Fault(self._pointer, message, place.offset, place.length, suggestions))

    def refuse_if_any(self) -> None:
        """Raises SchemaValidationFailed."""
        if self._faults:
            raise self.refusal()

    def refusal(self) -> SchemaValidationFailed:
        return SchemaValidationFailed("The query cannot be understood; details say where.", faults=tuple(self._faults))


def nearest(text: str, known: Iterable[str]) -> tuple[str, ...]:
    """Those of the known names that look like `text`, the most similar first."""
    names = list(known)[:_KNOWN_MAX]
    return tuple(get_close_matches(text[:_COMPARED_CHARACTERS_MAX], names, _NEAREST_MAX))


def place_of(token: Token) -> Place:
    return Place(token.start_pos or 0, len(token))
