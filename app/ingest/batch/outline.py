"""Finds where the events of a batch begin and end, for the bodies that msgspec does not take, and says what is wrong.

Such are: no JSON, members unknown or given twice or written with escapes, and half a surrogate pair or too many levels
in any event, which is JSON all the same and rejects that event alone. Looks at one element at a time and keeps
no value, so that whatever a body holds costs no more than its largest event.
"""

import json
from contextlib import suppress
from typing import Final

from app.errors import Fault, SchemaValidationFailed
from app.wire.exact_json import LEVELS_MAX, pointer_token, read_text, refuse_constant, refusing_what_is_no_object
from app.wire.json_cursor import SPACES, JsonCursor
from app.wire.json_scan import flatten_deeper, nests_deeper

_UNKNOWN: Final = "This member is not known; a batch has events."
_WANTED: Final = 'Send {"events": […]}, or one event a line as application/x-ndjson.'
_FAULTS_MAX: Final = 100
# Around an event stand a list and an object; what the list holds, or any member beside it, is on level 3.
BATCH_LEVELS_MAX: Final = LEVELS_MAX + 2
_EVENT_LEVEL: Final = 3


class _EnoughError(Exception):
    """The body is no batch, whatever follows: 5 MiB can hold a million members, and they need not all be read."""


# Numbers and objects come out as small integers, whatever they hold: only where they end is asked for.
_SCANNER: Final = json.JSONDecoder(
    parse_int=len, parse_float=len, parse_constant=refuse_constant, object_pairs_hook=len
)


def outline(body: bytes, events_max: int) -> list[bytes]:
    """The texts of the first `events_max` events and one more, if there are more.

    Raises BadRequest if `body` is no JSON object, SchemaValidationFailed if it is no batch.
    """
    text = shallow = read_text(body)
    if nests_deeper(body, BATCH_LEVELS_MAX):
        shallow = flatten_deeper(text, BATCH_LEVELS_MAX, _EVENT_LEVEL)
    walk = _Walk(shallow, events_max)
    with refusing_what_is_no_object(shallow, _WANTED), suppress(_EnoughError):
        walk.members()
    faults = walk.faults
    if walk.elements is None:
        faults["/events"] = faults.get("/events", "Must be a list of events.")
    if faults or walk.elements is None:
        raise SchemaValidationFailed(faults=tuple(Fault(*fault) for fault in faults.items()))
    return [text[span].rstrip(SPACES).encode() for span in walk.elements]


class _Walk:
    """One pass over the text, from the first character to the last."""

    def __init__(self, text: str, events_max: int) -> None:
        self._cursor = JsonCursor(text, _SCANNER)
        self._events_max = events_max
        self.elements: list[slice] | None = None
        """Where the events stand, with the space behind each, if there is a list of them."""
        self.faults: dict[str, str] = {}
        """What is wrong with a member, by its pointer."""

    def members(self) -> None:
        names = set()
        for name in self._cursor.object():
            if name != "events":
                self._add_fault(name, _UNKNOWN)
            if name == "events" and self._cursor.next() == "[":
                self._elements()
            else:
                self._cursor.value()
            if name in names:
                self._add_fault(name, "This member is given twice.")
            names.add(name)

    def _elements(self) -> None:
        self.elements = []
        for begin in self._cursor.list():
            self._cursor.value()
            self._cursor.next()
            self.elements.append(slice(begin, self._cursor.at))
            if len(self.elements) > self._events_max:
                raise _EnoughError

    def _add_fault(self, name: str, message: str) -> None:
        self.faults[f"/{pointer_token(name)}"] = message
        if len(self.faults) == _FAULTS_MAX:
            raise _EnoughError
