"""What the grammar cannot say: what must touch, how deep and how many; and sentences for what cannot be parsed.

The parser gets one token after the other, and the first one too many ends the work.
"""

from typing import Final

from lark import Token

from app.events.query.faults import Faults, place_of
from app.events.query.nodes import Place

CHARACTERS_MAX: Final = 2_000
TERMS_MAX: Final = 100
DEPTH_MAX: Final = 16

_COUNTED: Final = frozenset({"TERM", "QUOTED", "VALUE", "ITEM", "PATH"})
_ENDS: Final = frozenset({"TERM", "QUOTED", "VALUE", "PATH", "_LIST_END"})
_BEGINS: Final = frozenset({"TERM", "QUOTED", "HEAD", "_HAS", "_OPEN", "_MINUS", "_NOT", "_AND", "_OR"})
_TOUCHES_NEXT: Final = frozenset({"HEAD", "_HAS", "_RANGE"})
_JOINS: Final = frozenset({"_OR", "_AND", "_NOT", "_MINUS"})
_KEYWORDS: Final = ("AND", "OR")

_NO_VALUE: Final = "The value stands directly behind this, without a space."
_NO_PATH: Final = "has: takes the path of a payload's member, such as has:payload.customer."
_NO_RANGE: Final = "A range has both ends and no spaces, such as payload.amount:10..20; with one end, write >= or <=."


class Refused(Exception):  # noqa: N818 - ends the parsing of a text whose fault is noted already
    """The text cannot be parsed any further."""


class Reading:
    """Where the parser is in a text: what came before, what is still open."""

    def __init__(self, text: str, faults: Faults) -> None:
        self._text = text
        self._faults = faults
        self._previous: Token | None = None
        self._open: list[tuple[Token, int]] = []
        self._list: Token | None = None
        self._negations = 0
        self._depth = 0
        self._terms = 0

    def take(self, token: Token) -> None:
        """Look at the next token before the parser does. Raises Refused."""
        self._check_touch(token)
        match token.type:
            case "_NOT" | "_MINUS":
                self._negations += 1
            case "_OPEN":
                self._open.append((token, self._negations + 1))
                self._depth += self._negations + 1
                self._negations = 0
            case "_CLOSE" if self._open:
                self._depth -= self._open.pop()[1]
            case "_LIST":
                self._list = token
            case "_LIST_END":
                self._list = None
            case kind if kind in _COUNTED:
                self._terms += 1
                self._negations = 0
        if self._terms > TERMS_MAX:
            raise self._refused(token, f"A query has at most {TERMS_MAX} words and values.")
        if self._depth + self._negations > DEPTH_MAX:
            raise self._refused(token, f"Parentheses and negations nest at most {DEPTH_MAX} deep.")
        self._previous = token

    def _check_touch(self, token: Token) -> None:
        before = self._previous
        if before is None:
            return
        is_apart = _begin(token) > _end(before)
        if is_apart and before.type in _TOUCHES_NEXT:
            raise self._refused(before, {"HEAD": _NO_VALUE, "_HAS": _NO_PATH}.get(before.type, _NO_RANGE))
        if is_apart and token.type == "_RANGE":
            raise self._refused(token, _NO_RANGE)
        if not is_apart and before.type in _ENDS and token.type in _BEGINS:
            raise self._refused(
                token, "Leave a space before this, or quote the whole. Several values stand in brackets: type:[a, b]"
            )

    def _refused(self, token: Token, message: str) -> Refused:
        self._faults.add(place_of(token), message)
        return Refused()

    def stop_at(self, position: int) -> None:
        """Note why the parser cannot go on at `position`."""
        offset = position + len(self._text[position:]) - len(self._text[position:].lstrip())
        rest = self._text[offset:]
        before = self._previous
        here = Place(offset, len(rest.split(maxsplit=1)[0]) if rest else 0)
        if before is not None and self._note_open_end(before, rest):
            return
        self._faults.add(*self._fault_of(rest, here))

    def _note_open_end(self, before: Token, rest: str) -> bool:
        """Note what waits for something else than the rest of the text begins with; False if nothing does."""
        place = place_of(before)
        if before.type == "HEAD" and rest[:1] in {"(", "["}:
            self._faults.add(place, f"Several values stand in brackets: {before}[a, b]")
        elif before.type == "HEAD":
            self._faults.add(place, f"A value must follow {before}")
        elif before.type == "_HAS":
            self._faults.add(place, _NO_PATH)
        elif before.type == "_RANGE":
            self._faults.add(place, _NO_RANGE)
        elif before.type in _JOINS and (not rest or rest[0] == ")" or rest.startswith(_KEYWORDS)):
            word = "" if before.type == "_MINUS" else f' The word itself is written "{before}".'
            self._faults.add(place, f"Something must follow {before}.{word}")
        elif self._list is not None:
            self._faults.add(place_of(self._list), "In a list stand values and commas between them, up to a ].")
        else:
            return False
        return True

    def _fault_of(self, rest: str, here: Place) -> tuple[Place, str]:
        first = rest[:1]
        if not first:
            return place_of(self._open[-1][0]), "This parenthesis is not closed."
        if first == '"':
            return here, 'This quote is not closed. Within quotes, a quote is written \\" and a backslash \\\\.'
        one = Place(here.offset, 1)
        if first == ")":
            message = "Nothing stands in these parentheses." if self._open else "This parenthesis closes none."
            return one, message
        if first == "-":
            return one, "A - negates what stands directly behind it. The character itself is found by no search."
        if rest.startswith(_KEYWORDS):
            word = next(word for word in _KEYWORDS if rest.startswith(word))
            place = Place(here.offset, len(word))
            return place, f'Something must stand before {word}. The word itself is written "{word}".'
        return here, "This cannot stand here."


def _begin(token: Token) -> int:
    return token.start_pos or 0


def _end(token: Token) -> int:
    return _begin(token) + len(token)
