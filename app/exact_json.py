"""Reads JSON without losing anything: numbers exactly, positions of mistakes, and each member's own text.

The standard library's scanner does the parsing; what is added are hooks (numbers), limits and the outermost object,
which is walked member by member because no library tells where a member's text begins and ends *and* that a member
came twice.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec

from app.errors import BadRequest, Fault, SchemaValidationFailed
from app.json_depth import cut_deeper, nests_deeper

DEPTH_MAX = 32
# The object that a request's body is stands around what may nest so deep.
LEVELS_MAX = DEPTH_MAX + 1
# PostgreSQL's numeric, which jsonb keeps numbers in: 131,072 digits before the point and 16,383 after it
# (postgresql.org/docs/15/datatype-numeric.html). We promise less, the same on both sides.
DIGITS_MAX = 16_383
# Seven characters (1e9999) can stand for ten thousand digits, and jsonb writes them all out when it is read. Exponents
# of one digit are not counted: they can make a payload no more than three times as long.
WRITTEN_OUT_MAX = 262_144
FAULTS_MAX = 100

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?")
# An integer this short goes through as a Python int; longer ones and all others stay text.
_INT_CHARACTERS = 18
_STRING_OR_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|NaN|-?Infinity')
# What a number must look like to come near a limit: an exponent of two digits, or thousands of digits. The look-behind
# keeps the search linear: without it, each digit of a long run would begin a search of its own.
_LONG_NUMBER = re.compile(r"\d[eE][+-]?\d{2}|(?<!\d)\d{9999}")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Number:
    """A number that Python's float cannot carry: its canonical text, and what it takes written out in full.

    Not a dataclass: msgspec would encode its fields instead of asking the hook.
    """

    __slots__ = ("canonical", "digits_after", "digits_before", "raw")

    def __init__(self, canonical: str, digits_before: int, digits_after: int) -> None:
        self.canonical = canonical
        self.raw = msgspec.Raw(canonical.encode())
        self.digits_before = digits_before
        self.digits_after = digits_after


@dataclass(frozen=True, slots=True)
class JsonObject:
    """An object as it came: values by member, each member's own text, and what is wrong with it although it parses."""

    values: dict[str, Any]
    texts: dict[str, str]
    faults: tuple[Fault, ...]


def read_object(body: bytes) -> JsonObject:
    """Parse `body`, which must be one JSON object in UTF-8.

    Raises BadRequest with the position if it is not JSON, and SchemaValidationFailed if it nests too deep: no parser
    may go there. All else that JSON allows and we do not (a member twice, U+0000, lone surrogates, numbers beyond
    measure) is reported as faults, so that all can be told at once.
    """
    if nests_deeper(body, LEVELS_MAX):
        raise _too_deep(body)
    text = read_text(body)
    values, texts, twice = read_members(text)
    faults = [Fault(f"/{pointer_token(name)}", "This member is given twice.") for name in twice]
    return JsonObject(values, texts, (*faults, *(_faults(values) if _is_suspicious(text) else ())))


def read_text(body: bytes) -> str:
    """What `body` says in UTF-8. Raises BadRequest."""
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"The body is not UTF-8: byte {error.start} does not belong there.") from None


def read_members(text: str) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """The members of the object in `text`, which must not nest too deep: their values, their texts, and which come
    twice. Raises BadRequest with the position if it is no JSON object.
    """
    try:
        return _members(text)
    except json.JSONDecodeError as error:
        raise _not_json(error) from None
    except _ConstantError as error:
        raise _not_json(json.JSONDecodeError(f"{error} is not JSON", text, _position_of_constant(text))) from None


def _too_deep(body: bytes) -> BadRequest | SchemaValidationFailed:
    """What is wrong first: where it ceases to be JSON, or where it nests too deep."""
    text = cut_deeper(body, LEVELS_MAX)
    try:
        read_members(read_text(text))
    except BadRequest as refusal:
        return refusal
    pointer, value = "", _OUTLINE.decode(text.decode())
    # The null in the place of what is too deep is the last value in the text; objects are tuples of pairs here.
    while isinstance(value, tuple | list):
        name, value = value[-1] if isinstance(value, tuple) else (len(value) - 1, value[-1])
        pointer += f"/{pointer_token(name)}"
    return SchemaValidationFailed(faults=(Fault(pointer, f"Nested deeper than {DEPTH_MAX} levels."),))


def fingerprint(value: Any) -> bytes:
    """SHA-256 of a value in one canonical form: equal for equal JSON values, whatever their order, space or notation.

    Members sorted by name, no white space, numbers in one notation (1, 1.0 and 10e-1 are the same number).
    """
    return hashlib.sha256(msgspec.json.encode(value, enc_hook=_encode_number, order="sorted")).digest()


def pointer_token(name: object) -> str:
    """One step of a JSON pointer (RFC 6901 §3), shortened if somebody sends a novel."""
    return str(name)[:128].replace("~", "~0").replace("/", "~1")


def _encode_number(value: Any) -> msgspec.Raw:
    if isinstance(value, Number):
        return value.raw
    raise TypeError(type(value).__name__)


class _ConstantError(Exception):
    """NaN, Infinity or -Infinity, which the scanner hands to a hook without saying where it stood."""


def _refuse_constant(name: str) -> None:
    raise _ConstantError(name)


def _position_of_constant(text: str) -> int:
    found = next((match for match in _STRING_OR_CONSTANT.finditer(text) if match[0][0] != '"'), None)
    return found.start() if found else 0


def _not_json(error: json.JSONDecodeError) -> BadRequest:
    where = f"line {error.lineno}, column {error.colno} (character {error.pos})"
    return BadRequest(f"The body is not JSON: {where}: {error.msg}.")


def _integer(literal: str) -> int | Number:
    return int(literal) if len(literal) <= _INT_CHARACTERS else number(literal)


def number(literal: str) -> Number:
    """The canonical form of a JSON number: its digits without zeros at either end, and a power of ten."""
    match = _NUMBER.fullmatch(literal)
    if match is None:  # pragma: no cover - the scanner only hands on numbers
        raise ValueError(literal)
    sign, whole, fraction, power = match[1], match[2], match[3] or "", match[4] or "0"
    # An exponent of more than nine digits is beyond any limit; reading it would only cost time.
    exponent = int(power) if len(power.lstrip("+-").lstrip("0")) <= 9 else 10**9
    before, after = max(len(whole) + exponent, 1), max(len(fraction) - exponent, 0)
    digits = (whole + fraction).lstrip("0")
    stripped = digits.rstrip("0")
    if not stripped:
        return Number("0", before, after)
    shift = exponent - len(fraction) + len(digits) - len(stripped)
    if shift >= 0 and len(sign) + len(stripped) + shift <= _INT_CHARACTERS:
        return Number(sign + stripped + "0" * shift, before, after)
    return Number(f"{sign}{stripped}E{shift}", before, after)


_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=number, parse_constant=_refuse_constant)
_OUTLINE = json.JSONDecoder(parse_int=len, parse_float=len, object_pairs_hook=tuple)


def _members(text: str) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    values: dict[str, Any] = {}
    texts: dict[str, str] = {}
    twice: list[str] = []
    at = _expect(text, _skip(text, 0), "{")
    if text[at : at + 1] != "}":
        at -= 1
        separator = "{"
        while separator != "}":
            at = _skip(text, at + 1)
            if text[at : at + 1] != '"':
                raise json.JSONDecodeError("Expecting a member name in double quotes", text, at)
            name, at = _DECODER.raw_decode(text, at)
            begin = _expect(text, _skip(text, at), ":")
            value, at = _DECODER.raw_decode(text, begin)
            if name in values:
                twice.append(name)
            values[name], texts[name] = value, text[begin:at]
            at = _skip(text, at)
            separator = text[at : at + 1]
            if separator not in (",", "}"):
                raise json.JSONDecodeError("Expecting ',' or '}'", text, at)
    end = _skip(text, at + 1)
    if end != len(text):
        raise json.JSONDecodeError("Nothing may follow the object", text, end)
    return values, texts, twice


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _expect(text: str, at: int, character: str) -> int:
    """The position of what follows `character`, which must stand at `at`."""
    if text[at : at + 1] != character:
        what = "a JSON object" if character == "{" else repr(character)
        raise json.JSONDecodeError(f"Expecting {what}", text, at)
    return _skip(text, at + 1)


def _is_suspicious(text: str) -> bool:
    """Whether the careful walk is worth its price; nearly no event needs it.

    U+0000 and lone surrogates can only come as escapes, a number too long only with an exponent or as long text.
    """
    return "\\u" in text or _LONG_NUMBER.search(text) is not None


def _faults(values: dict[str, Any]) -> tuple[Fault, ...]:
    # Nobody reads more of them, and a body of 500 KB can hold tens of thousands.
    faults = list(islice(_all_faults(values), FAULTS_MAX))
    if not faults and _digits_written_out(values) > WRITTEN_OUT_MAX:
        faults.append(Fault("", f"The numbers come to more than {WRITTEN_OUT_MAX} digits when written out."))
    return tuple(faults)


def _all_faults(values: dict[str, Any]) -> Iterator[Fault]:
    for name, value in values.items():
        yield from _faults_below(name, "", "A member's name")
        yield from _faults_below(value, f"/{pointer_token(name)}", "The text")


def _digits_written_out(value: Any) -> int:
    if isinstance(value, Number):
        return value.digits_before + value.digits_after
    if isinstance(value, dict):
        return sum(map(_digits_written_out, value.values()))
    return sum(map(_digits_written_out, value)) if isinstance(value, list) else 0


def _faults_below(value: Any, pointer: str, what: str) -> Iterator[Fault]:
    if isinstance(value, str):
        if "\0" in value:
            yield Fault(pointer, f"{what} contains U+0000, which cannot be stored.")
        if _SURROGATE.search(value):
            yield Fault(pointer, f"{what} contains half a surrogate pair, which is not Unicode.")
    elif isinstance(value, Number):
        if max(value.digits_before, value.digits_after) > DIGITS_MAX:
            yield Fault(pointer, f"The number needs more than {DIGITS_MAX} digits before or after its point.")
    elif isinstance(value, dict | list):
        names = value if isinstance(value, dict) else range(len(value))
        for name in names:
            below = f"{pointer}/{pointer_token(name)}"
            if isinstance(name, str):
                yield from _faults_below(name, pointer, "A member's name")
            yield from _faults_below(value[name], below, "The text")
