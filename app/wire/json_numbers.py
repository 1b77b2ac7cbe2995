"""The numbers of JSON: one canonical text for each value, kept for those that repeat, and which are refused.

A number is taken if all who may read the event later can read it: as a double it is finite (JavaScript reads what is
larger as Infinity, Go and Rust refuse the whole document, Python refuses integers of more than 4,300 digits), and it is
no longer than 1,000 characters when it is written out, as PostgreSQL's jsonb does (Java's Jackson refuses longer ones).
"""

import json
from collections.abc import Callable
from math import isinf
from typing import Final, Generic, TypeVar

import msgspec

Value = TypeVar("Value")

WRITTEN_OUT_CHARACTERS_MAX: Final = 1000
TOO_LARGE: Final = "The number is too large to be a double (1.8e308 at most). Send it as a string."
TOO_LONG: Final = (
    f"The number has more than {WRITTEN_OUT_CHARACTERS_MAX} characters when written out. Send it as a string."
)

# An integer this short goes through as a Python int; longer ones and all others become canonical text.
_INT_CHARACTERS: Final = 18
# A double has 309 digits before its point at the most; below that no number needs a closer look.
_DIGITS_OF_LARGEST: Final = 309
# An exponent of more digits is beyond any limit; reading it would only cost time.
_EXPONENT_CHARACTERS_MAX: Final = 9
# About 250 bytes each. Longer literals do not repeat, and would make it any size.
_KEPT_MAX: Final = 16_384
_KEPT_CHARACTERS_MAX: Final = 32


class UnreadableNumber(ValueError):  # noqa: N818 - it is also what stands for the number
    """A number that many readers could not read; its text says why and what to do."""


class Kept(dict[str, Value], Generic[Value]):
    """What `read` makes of a literal, kept for the next time, because prices repeat.

    Parsers call its `__getitem__` for each number: 35 ns without a step of the interpreter if it is known, else 1 µs.
    """

    def __init__(self, read: Callable[[str], Value]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, literal: str) -> Value:
        value = self._read(literal)
        if len(literal) <= _KEPT_CHARACTERS_MAX:
            if len(self) >= _KEPT_MAX:
                self.clear()
            self[literal] = value
        return value


def read_number(literal: str) -> int | msgspec.Raw:
    """The value of a JSON number as what msgspec encodes canonically: digits without zeros at either end, and a power
    of ten. Raises UnreadableNumber.
    """
    if len(literal) <= _INT_CHARACTERS and literal.lstrip("-").isdecimal():
        return int(literal)
    if (decimal := _plain_decimal(literal)) is not None:
        return decimal
    sign, whole, fraction, exponent = _parts(literal)
    before, after = max(len(whole) + exponent, 1), max(len(fraction) - exponent, 0)
    if len(sign) + before + bool(after) + after > WRITTEN_OUT_CHARACTERS_MAX:
        raise UnreadableNumber(TOO_LARGE if before > after else TOO_LONG)
    text = _canonical(sign, whole, fraction, exponent)
    if before >= _DIGITS_OF_LARGEST and isinf(float(text)):
        raise UnreadableNumber(TOO_LARGE)
    return msgspec.Raw(text.encode())


def _plain_decimal(literal: str) -> msgspec.Raw | None:
    """What read_number makes of nearly every number with a fraction, at half the price; None of any other."""
    whole, _, fraction = literal.partition(".")
    behind = fraction.rstrip("0")
    if not behind.isdecimal() or len(literal) >= _DIGITS_OF_LARGEST:
        return None
    digits = (whole + behind).lstrip("-0")
    return msgspec.Raw(f"{'-' if literal[0] == '-' else ''}{digits}E-{len(behind)}".encode())


def read_any_number(literal: str) -> int | msgspec.Raw | UnreadableNumber:
    """As read_number; what that raises stands for a number that many could not read."""
    try:
        return read_number(literal)
    except UnreadableNumber as error:
        return UnreadableNumber(*error.args)


def characters_written_out(text: str) -> int:
    """How many characters the numbers of a JSON text that have a fraction or an exponent come to when written out."""
    literals: list[str] = []
    json.JSONDecoder(parse_float=literals.append, parse_int=len).decode(text)
    return sum(map(_WRITTEN_OUT.__getitem__, literals))


def _written_out(literal: str) -> int:
    sign, whole, fraction, exponent = _parts(literal)
    return len(sign) + max(len(whole) + exponent, 1) + max(len(fraction) - exponent, 0)


_WRITTEN_OUT: Final = Kept(_written_out)


def _parts(literal: str) -> tuple[str, str, str, int]:
    """Sign, digits before and after the point, and the power of ten."""
    mantissa, _, power = literal.replace("E", "e").partition("e")
    whole, _, fraction = mantissa.partition(".")
    sign = "-" if whole[0] == "-" else ""
    if not power:
        return sign, whole[len(sign) :], fraction, 0
    digits = power.lstrip("+-").lstrip("0")
    is_readable = len(digits) <= _EXPONENT_CHARACTERS_MAX
    exponent = int(digits or "0") if is_readable else 10**_EXPONENT_CHARACTERS_MAX
    return sign, whole[len(sign) :], fraction, -exponent if power[0] == "-" else exponent


def _canonical(sign: str, whole: str, fraction: str, exponent: int) -> str:
    digits = (whole + fraction).lstrip("0")
    stripped = digits.rstrip("0")
    if not stripped:
        return "0"
    shift = exponent - len(fraction) + len(digits) - len(stripped)
    if shift >= 0 and len(sign) + len(stripped) + shift <= _INT_CHARACTERS:
        return sign + stripped + "0" * shift
    return f"{sign}{stripped}E{shift}"
