"""The words of a text, and a payload's text in which they are looked for: what event_text.sql does, in Python.

A word is a run of letters and digits. Of ASCII, everything else separates and capitals are small letters; every other
character belongs to a word as it is, whatever Unicode says of it: so both sides agree in every version of both.
"""

import json
import string
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

_WORDS: Final = str.maketrans(
    {chr(code): chr(code).lower() if chr(code) in string.ascii_letters + string.digits else " " for code in range(128)}
)
# Stands at both ends of each string, so that a phrase is never found across two of them.
_QUOTE: Final = '"'
_DECODER: Final = json.JSONDecoder(parse_float=Decimal)


def read_payload(text: str) -> dict[str, Any]:
    """A stored payload with its numbers exactly as they are."""
    payload: dict[str, Any] = _DECODER.decode(text)
    return payload


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text, in their order."""
    return tuple(word for word in text.translate(_WORDS).split(" ") if word)


def event_text(payload: Mapping[str, Any]) -> str:
    """All words of a payload's names, strings, numbers and constants in the order of its stored text, spaces around
    each, and quotes around those of one string.
    """
    parts = [part for part in _parts(payload) if part]
    return f" {' '.join(parts)} " if parts else " "


def _parts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield from (_QUOTE, *words_of(value), _QUOTE)
        case Mapping():
            # jsonb keeps members in this order: what follows an object in a list stands behind its last member.
            for name in sorted(value, key=_stored_order):
                yield from (_QUOTE, *words_of(name), _QUOTE)
                yield from _parts(value[name])
        case list():
            for item in value:
                yield from _parts(item)
        case _:
            yield from words_of(written_number(value) if is_number(value) else json.dumps(value))


def _stored_order(name: str) -> tuple[int, bytes]:
    encoded = name.encode()
    return len(encoded), encoded


def is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def written_number(value: int | Decimal) -> str:
    """A number as PostgreSQL's jsonb writes it: without an exponent, with the zeros at its end."""
    return format(value, "f") if isinstance(value, Decimal) else str(value)
