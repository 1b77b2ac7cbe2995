"""What names and descriptions may hold: they are displayed, compared and logged."""

import re
import unicodedata
from typing import Final

NAME_CHARACTERS_MAX: Final = 200
DESCRIPTION_CHARACTERS_MAX: Final = 2_000
ENVIRONMENT_NAME: Final = "[a-z0-9][a-z0-9_-]{0,62}"
PATH_NAME: Final = "[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}"
"""A name that stands in an address; no dot at its beginning: clients take `.` and `..` out of one."""

# Normalisation shortens a text to a quarter at most. A longer text is refused before it, because the cost of
# normalisation grows faster than the text.
_EXPANSION_MAX: Final = 4
_ENVIRONMENT_NAME = re.compile(ENVIRONMENT_NAME)
# Characters without a glyph that str.isprintable() takes for printable: fillers, joiners, the blank signs of braille,
# hieroglyphs and musical notes.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0\ufff9-\ufffc"
    "\U0001107f\U00013441\U00013442\U00016fe4\U0001d159\U000e0100-\U000e01ef]"
)
# A variation selector chooses between the forms of a symbol (❤ and ❤️). After anything else it changes nothing that can
# be seen, except in a keycap (1️⃣) and after U+2139, the one emoji that is a letter to Unicode.
_VARIATION = re.compile("(.?)(?<!\u2139)[\ufe00-\ufe0f](?!\u20e3)", re.DOTALL)
# Control characters except line breaks, lone surrogates, and marks that change the direction of writing.
_REFUSED_IN_DESCRIPTIONS = re.compile(
    "[\0-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def read_name(text: str) -> str:
    """`text` as a name: its NFC form, so that two encodings of one name are equal.

    Raises ValueError; its message is for the caller of the API.
    """
    name = read_label(text)
    if not name:
        raise ValueError(f"Must be 1 to {NAME_CHARACTERS_MAX} characters.")
    return name


def read_label(text: str) -> str:
    """As read_name(), for a label, which may be empty."""
    if len(text) > NAME_CHARACTERS_MAX * _EXPANSION_MAX:
        raise ValueError(f"Must be at most {NAME_CHARACTERS_MAX} characters.")
    label = unicodedata.normalize("NFC", text)
    if len(label) > NAME_CHARACTERS_MAX:
        raise ValueError(f"Must be at most {NAME_CHARACTERS_MAX} characters.")
    if label != label.strip():
        raise ValueError("Must not begin or end with white space.")
    # HTML shows two spaces as one.
    if "  " in label:
        raise ValueError("Must hold one space at a time.")
    # isprintable() refuses control and formatting characters (zero-width ones, direction marks), white space other than
    # a plain space, and unassigned code points.
    if not label.isprintable() or _INVISIBLE.search(label) or _has_idle_selector(label):
        raise ValueError("Must hold visible characters and plain spaces only.")
    # On nothing, or on a space, an accent is hardly seen, and a name of accents alone cannot be read or typed.
    if any(unicodedata.category(word[0])[0] == "M" for word in label.split()):
        raise ValueError("Must not begin a word with an accent or another combining mark.")
    return label


def _has_idle_selector(label: str) -> bool:
    """Whether a variation selector follows what has no other form: a letter, mark, digit, space, or nothing."""
    bases = (match[1] for match in _VARIATION.finditer(label))
    return any(not base or unicodedata.category(base)[0] in "LMNZ" for base in bases)


def read_environment_name(text: str) -> str:
    """`text` as an environment's name. Raises ValueError.

    Narrower than other names: producers send it as `environment`, and ingest compares it byte by byte.
    """
    if not _ENVIRONMENT_NAME.fullmatch(text):
        raise ValueError(
            "Must be 1 to 63 lower-case letters, digits, _ and -, and begin with a letter or a digit;"
            " producers send it in their events."
        )
    return text


def read_description(text: str) -> str:
    """`text` as a description: any length up to the limit, line breaks allowed. Raises ValueError."""
    if len(text) > DESCRIPTION_CHARACTERS_MAX:
        raise ValueError(f"Must be at most {DESCRIPTION_CHARACTERS_MAX} characters.")
    if _REFUSED_IN_DESCRIPTIONS.search(text):
        raise ValueError("Must hold no control characters but line breaks.")
    return text
