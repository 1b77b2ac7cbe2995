"""Finds where the events of a batch begin and end, for the bodies that msgspec does not take, and says what is wrong.

Such are: no JSON, members unknown or given twice or written with escapes, and half a surrogate pair or too many levels
in any event, which is JSON all the same and the matter of that event alone. Looks at one element at a time and keeps
no value, so that whatever a body holds costs no more than its largest event.
"""

import json
import re
from contextlib import suppress
from typing import Any, Final, NoReturn

from app.errors import BadRequest, Fault, SchemaValidationFailed
from app.wire.exact_json import LEVELS_MAX, pointer_token, read_members, read_text
from app.wire.json_depth import flatten_deeper, nests_deeper

_SPACES: Final = " \t\n\r"
_SPACE: Final = re.compile(f"[{_SPACES}]*")
_UNKNOWN: Final = "This member is not known; a batch has events."
_WANTED: Final = 'Send {"events": […]}, or one event a line as application/x-ndjson.'
_FAULTS_MAX: Final = 100
# Around an event stand a list and an object; what the list holds, or any member beside it, is on level 3.
BATCH_LEVELS_MAX: Final = LEVELS_MAX + 2
_EVENT_LEVEL: Final = 3


class _UnreadableError(Exception):
    """The body is no JSON object."""


class _EnoughError(Exception):
    """What follows cannot make the body a batch any more and is passed over: 5 MiB have room for a million members."""


def _refuse(_: str) -> NoReturn:
    raise _UnreadableError


# Numbers and objects come out as small integers, whatever they hold: only where they end is asked for.
_SCANNER: Final = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=_refuse, object_pairs_hook=len)


def outline(body: bytes, events_max: int) -> list[bytes]:
    """The texts of the first `events_max` events and one more, if there are more.

    Raises BadRequest if `body` is no JSON object, SchemaValidationFailed if it is no batch.
    """
    text = shallow = read_text(body)
    if nests_deeper(body, BATCH_LEVELS_MAX):
        shallow = flatten_deeper(text, BATCH_LEVELS_MAX, _EVENT_LEVEL)
    walk = _Walk(shallow, events_max)
    try:
        with suppress(_EnoughError):
            walk.members()
    except (json.JSONDecodeError, _UnreadableError):
        # The exact reader, slow as it is, knows best how to say where.
        read_members(shallow, _WANTED)
        raise BadRequest("The body is not JSON.") from None
    faults = walk.faults
    if walk.elements is None:
        faults["/events"] = faults.get("/events", "Must be a list of events.")
    if faults or walk.elements is None:
        raise SchemaValidationFailed(faults=tuple(Fault(*fault) for fault in faults.items()))
    return [text[place].rstrip(_SPACES).encode() for place in walk.elements]


class _Walk:
    """One pass over the text, from the first character to the last."""

    def __init__(self, text: str, events_max: int) -> None:
        self._text = text
        self._events_max = events_max
        self._at = 0
        self.elements: list[slice] | None = None
        """Where the events stand, with the space behind each, if there is a list of them."""
        self.faults: dict[str, str] = {}
        """What is wrong with a member, by its pointer."""

    def members(self) -> None:
        self._take("{")
        names = set()
        is_first = True
        while self._has_more("}", is_first=is_first):
            if self._next() != '"':
                raise _UnreadableError
            name = self._value()
            self._take(":")
            self._member(name)
            if name in names:
                self._add_fault(name, "This member is given twice.")
            names.add(name)
            is_first = False
        if self._next():
            raise _UnreadableError

    def _member(self, name: str) -> None:
        if name != "events":
            self._add_fault(name, _UNKNOWN)
        if name == "events" and self._next() == "[":
            self._elements()
        else:
            self._value()

    def _elements(self) -> None:
        self._take("[")
        self.elements = []
        is_first = True
        while self._has_more("]", is_first=is_first):
            begin = self._skip()
            self._value()
            self.elements.append(slice(begin, self._skip()))
            if len(self.elements) > self._events_max:
                raise _EnoughError
            is_first = False

    def _has_more(self, end: str, *, is_first: bool) -> bool:
        """Whether another member or element follows; steps over the comma before it, or over the `end`."""
        is_end = self._next() == end
        if is_end or not is_first:
            self._take(end if is_end else ",")
        return not is_end

    def _add_fault(self, name: str, message: str) -> None:
        self.faults[f"/{pointer_token(name)}"] = message
        if len(self.faults) == _FAULTS_MAX:
            raise _EnoughError

    def _value(self) -> Any:
        value, self._at = _SCANNER.raw_decode(self._text, self._skip())
        return value

    def _take(self, character: str) -> None:
        if self._next() != character:
            raise _UnreadableError
        self._at += 1

    def _next(self) -> str:
        """The next character that is no white space, or "" at the end."""
        self._skip()
        return self._text[self._at : self._at + 1]

    def _skip(self) -> int:
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match else self._at
        return self._at
