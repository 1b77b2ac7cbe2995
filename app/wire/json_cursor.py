"""Walks the members of a JSON object and the elements of a list, one at a time; a decoder reads each value.

No library tells where a member's text begins and ends *and* that a member came twice. What lies deeper than the walk is
the decoder's: the standard library's scanner.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

SPACES: Final = " \t\n\r"
SOMETHING_FOLLOWS: Final = "Nothing may follow the object"
_SPACE: Final = re.compile(f"[{SPACES}]*")


class JsonCursor:
    """A position in a text. Each step raises json.JSONDecodeError where it is not JSON, or what the decoder raises."""

    def __init__(self, text: str, decoder: json.JSONDecoder) -> None:
        self._text = text
        self._decode = decoder.raw_decode
        self.at = 0

    def object(self) -> Iterator[str]:
        """The name of each member of the object that is all of the text. The caller reads its value before the next."""
        yield from self._members()
        if self.next():
            raise json.JSONDecodeError(SOMETHING_FOLLOWS, self._text, self.at)

    def list(self) -> Iterator[int]:
        """Where each element of the list here begins. The caller reads its value before the next."""
        self._take("[", "a list")
        is_first = True
        while self._has_more("]", is_first=is_first):
            self.next()
            yield self.at
            is_first = False

    def value(self) -> Any:
        """What the decoder makes of the value here; the cursor then stands behind it."""
        self.next()
        value, self.at = self._decode(self._text, self.at)
        return value

    def next(self) -> str:
        """The next character that is no white space, at which the cursor then stands; "" at the end."""
        match = _SPACE.match(self._text, self.at)
        self.at = match.end() if match else self.at
        return self._text[self.at : self.at + 1]

    def _members(self) -> Iterator[str]:
        self._take("{", "a JSON object")
        is_first = True
        while self._has_more("}", is_first=is_first):
            if self.next() != '"':
                raise json.JSONDecodeError("Expecting a member name in double quotes", self._text, self.at)
            name: str = self.value()
            self._take(":", "':'")
            self.next()
            yield name
            is_first = False

    def _has_more(self, end: str, *, is_first: bool) -> bool:
        """Whether another member or element follows; steps over the comma before it, or over the `end`."""
        if self.next() == end:
            self.at += 1
            return False
        if not is_first:
            self._take(",", f"',' or '{end}'")
        return True

    def _take(self, character: str, wanted: str) -> None:
        if self.next() != character:
            raise json.JSONDecodeError(f"Expecting {wanted}", self._text, self.at)
        self.at += 1
