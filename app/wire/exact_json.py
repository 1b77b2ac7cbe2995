"""Reads JSON without losing anything: numbers exactly, positions of mistakes, and each member's own text.

The standard library's scanner does the parsing; what is added are hooks (numbers), limits, and a walk over the members
of the outermost object (json_cursor.py). Only what is refused is walked value by value: Python takes ten times as long
for that as the scanner.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

from app.errors import BadRequest, Fault, SchemaValidationFailed
from app.wire.json_cursor import SOMETHING_FOLLOWS, SPACES, JsonCursor
from app.wire.json_numbers import Kept, UnreadableNumber, characters_written_out, read_any_number, read_number
from app.wire.json_scan import cut_deeper, nests_deeper

DEPTH_MAX = 32
# The object that a request's body is stands around what may nest so deep.
LEVELS_MAX = DEPTH_MAX + 1
# Six characters (1e-990) can stand for a thousand, and jsonb writes them all out when it is read. Exponents of one
# digit are not counted: they can make a payload no more than three times as long.
WRITTEN_OUT_MAX = 262_144
FAULTS_MAX = 100

_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "UTF-8", codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
# What a body is that begins so, unless it is no JSON at all.
_KINDS = {"": "empty", "[": "a list", '"': "a string", **dict.fromkeys("-0123456789", "a number")}
_CONSTANTS = ("true", "false", "null")

_STRING_OR_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|NaN|-?Infinity')
_LONG_EXPONENT = re.compile(r"\d[eE][+-]?\d\d")
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
# The same as escapes, which is the only way for them to come: U+0000, and half a pair.
_UNSTORABLE_ESCAPE = re.compile(
    r"\\u(?:0000|[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u)[dD][c-fC-F])"
)


class ConstantError(Exception):
    """NaN, Infinity or -Infinity, which the scanner hands to a hook without saying where it stood."""


def refuse_constant(name: str) -> None:
    raise ConstantError(name)


_NUMBERS = Kept(read_number).__getitem__
_ANY_NUMBERS = Kept(read_any_number).__getitem__
_DECODER = json.JSONDecoder(parse_int=_NUMBERS, parse_float=_NUMBERS, parse_constant=refuse_constant)
_LENIENT_DECODER = json.JSONDecoder(parse_int=_ANY_NUMBERS, parse_float=_ANY_NUMBERS, parse_constant=refuse_constant)
_OUTLINE = json.JSONDecoder(parse_int=len, parse_float=len, object_pairs_hook=tuple)


@dataclass(frozen=True, slots=True)
class JsonObject:
    """An object as it came: values by member, each member's own text, and what is wrong with it although it parses."""

    values: dict[str, Any]
    texts: dict[str, str]
    faults: tuple[Fault, ...]


def read_object(body: bytes, wanted: str = "Send an object.") -> JsonObject:
    """Parse `body`, which must be one JSON object in UTF-8; `wanted` ends the message to senders of anything else.

    Raises BadRequest with the position if it is not JSON, and SchemaValidationFailed if it nests too deep: no parser
    may go there. All else that JSON allows and we do not (a member twice, U+0000, lone surrogates, numbers beyond
    measure) is reported as faults, all at once.
    """
    if nests_deeper(body, LEVELS_MAX):
        raise _too_deep(body, wanted)
    text = read_text(body)
    try:
        values, texts, twice = read_members(text, wanted, _DECODER)
        is_readable = True
    except UnreadableNumber:
        values, texts, twice = read_members(text, wanted)
        is_readable = False
    faults = [Fault(f"/{pointer_token(name)}", "This member is given twice.") for name in twice]
    return JsonObject(values, texts, (*faults, *_faults(text, values, is_readable=is_readable)))


def read_text(body: bytes) -> str:
    """What `body` says in UTF-8. Raises BadRequest."""
    if (mark := next((mark for mark in _BYTE_ORDER_MARKS if body.startswith(mark)), None)) is not None:
        raise BadRequest(
            f"The body begins with the byte order mark of {_BYTE_ORDER_MARKS[mark]}, which is not JSON: byte 0,"
            " character 0. Send UTF-8 without one."
        )
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"The body is not UTF-8: byte {error.start} does not belong there.") from None


def read_members(
    text: str, wanted: str, decoder: json.JSONDecoder = _LENIENT_DECODER
) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """The members of the object in `text`, which must not nest too deep: their values, their texts, and which come
    twice. Raises BadRequest with the position if it is no JSON object.
    """
    with refusing_what_is_no_object(text, wanted):
        return _members(text, decoder)


@contextmanager
def refusing_what_is_no_object(text: str, wanted: str) -> Iterator[None]:
    """A block that reads the object in `text`. Raises BadRequest with the position if it is none, or no JSON."""
    begin = len(text) - len(text.lstrip(SPACES))
    kind = _KINDS.get(text[begin : begin + 1]) or next((it for it in _CONSTANTS if text.startswith(it, begin)), None)
    if kind is not None:
        raise BadRequest(f"The body is {kind}, and no JSON object: character {begin}. {wanted}")
    try:
        yield
    except json.JSONDecodeError as error:
        refusal = _not_json(error)
        raise BadRequest(f"{refusal.message} {wanted}") if error.msg == SOMETHING_FOLLOWS else refusal from None
    except ConstantError as error:
        raise _not_json(json.JSONDecodeError(f"{error} is not JSON", text, _position_of_constant(text))) from None


def _too_deep(body: bytes, wanted: str) -> BadRequest | SchemaValidationFailed:
    """What is wrong first: where it ceases to be JSON, or where it nests too deep."""
    text = cut_deeper(body, LEVELS_MAX)
    try:
        read_members(read_text(text), wanted)
    except BadRequest as refusal:
        return refusal
    pointer, value = "", _OUTLINE.decode(text.decode())
    # The null in the place of what is too deep is the last value in the text; objects are tuples of pairs here.
    while isinstance(value, tuple | list):
        name, value = value[-1] if isinstance(value, tuple) else (len(value) - 1, value[-1])
        pointer += f"/{pointer_token(name)}"
    return SchemaValidationFailed(faults=(Fault(pointer, f"Nested deeper than {DEPTH_MAX} levels."),))


def pointer_token(name: object) -> str:
    """One step of a JSON pointer (RFC 6901 §3), cut to 128 characters."""
    return str(name)[:128].replace("~", "~0").replace("/", "~1")


def _position_of_constant(text: str) -> int:
    found = next((match for match in _STRING_OR_CONSTANT.finditer(text) if match[0][0] != '"'), None)
    return found.start() if found else 0


def _not_json(error: json.JSONDecodeError) -> BadRequest:
    where = f"line {error.lineno}, column {error.colno} (character {error.pos})"
    return BadRequest(f"The body is not JSON: {where}: {error.msg}.")


def _members(text: str, decoder: json.JSONDecoder) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    values: dict[str, Any] = {}
    texts: dict[str, str] = {}
    twice: list[str] = []
    cursor = JsonCursor(text, decoder)
    for name in cursor.object():
        begin = cursor.at
        value = cursor.value()
        if name in values:
            twice.append(name)
        values[name], texts[name] = value, text[begin : cursor.at]
    return values, texts, twice


def _faults(text: str, values: dict[str, Any], *, is_readable: bool) -> tuple[Fault, ...]:
    """What is wrong with `values`, read from `text`, whose numbers may be readable."""
    # A backslash that stands for itself begins no escape.
    if not is_readable or ("\\u" in text and _UNSTORABLE_ESCAPE.search(text.replace("\\\\", "__"))):
        # A body of 500 KB can hold tens of thousands: the first ones are enough to mend it.
        faults = tuple(islice(_all_faults(values), FAULTS_MAX))
        return faults or (Fault("", "A member that is given twice holds what cannot be stored."),)
    if _LONG_EXPONENT.search(text) and characters_written_out(text) > WRITTEN_OUT_MAX:
        return (Fault("", f"The numbers come to more than {WRITTEN_OUT_MAX} characters when written out."),)
    return ()


def _all_faults(values: dict[str, Any]) -> Iterator[Fault]:
    for name, value in values.items():
        yield from _text_faults(name, "", "A member's name")
        yield from _faults_in([value], [f"/{pointer_token(name)}"])


def _faults_in(values: Iterable[Any], pointers: Iterable[str]) -> Iterator[Fault]:
    for value, pointer in zip(values, pointers, strict=False):
        if isinstance(value, str):
            if _UNSTORABLE.search(value):
                yield from _text_faults(value, pointer, "The text")
        elif isinstance(value, UnreadableNumber):
            yield Fault(pointer, str(value))
        elif isinstance(value, dict):
            for name in filter(_UNSTORABLE.search, value):
                yield from _text_faults(name, pointer, "A member's name")
            yield from _faults_in(value.values(), (f"{pointer}/{pointer_token(name)}" for name in value))
        elif isinstance(value, list) and value:
            yield from _faults_in(value, (f"{pointer}/{n}" for n in count()))


def _text_faults(text: str, pointer: str, what: str) -> Iterator[Fault]:
    if "\0" in text:
        yield Fault(pointer, f"{what} contains U+0000, which cannot be stored.")
    if _SURROGATE.search(text):
        yield Fault(pointer, f"{what} contains half a surrogate pair, which is not Unicode.")
