"""What names and descriptions may hold: they are shown to people, compared, and written into logs."""

import re
import unicodedata
from typing import Final

NAME_CHARACTERS_MAX: Final = 200
DESCRIPTION_CHARACTERS_MAX: Final = 2_000
ENVIRONMENT_NAME: Final = "[a-z0-9][a-z0-9_-]{0,62}"

# Normalising may shorten a text, at most to a quarter; what is longer is refused before, since the cost
# of normalising grows faster than the text.
_EXPANSION_MAX: Final = 4
_ENVIRONMENT_NAME = re.compile(ENVIRONMENT_NAME)
# Letters of living scripts that NFKC takes apart although they look like nothing else: whoever writes Thai, Lao or
# Armenian writes them.
_ORDINARY_LETTERS: Final = re.compile("[\u0e33\u0eb3\u0edc\u0edd\u0587]")
# What takes room or joins letters and cannot be seen, though it passes for printable.
_UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\ufff9-\ufffc\U000e0100-\U000e01ef]")
# Chooses between the forms of a symbol; after a letter or a digit it changes nothing that one could see, but in a
# keycap.
_VARIATION = re.compile("(.?)[\ufe00-\ufe0f](?!\u20e3)", re.DOTALL)
# Scripts with letters that look like another one's, by the first word of their letters' names; a word holds letters of
# one of them. Scripts that are written without spaces, and Latin words among them, have no such letters.
_ALIKE_SCRIPTS: Final = frozenset(
    [
        *("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CANADIAN", "CHEROKEE", "COPTIC", "DESERET"),
        *("GEORGIAN", "GLAGOLITIC", "GOTHIC", "LISU", "OLD", "OSAGE", "RUNIC", "TIFINAGH"),
    ]
)
# Control characters but the line breaks, halves of surrogate pairs, and what turns the direction of writing.
_REFUSED_IN_DESCRIPTIONS = re.compile(
    "[\0-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def read_name(text: str) -> str:
    """`text` as a name: its NFC form, so that two spellings of one name cannot stand side by side.

    Raises ValueError with a sentence for whoever chose it.
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
    # Whoever reads a page sees one space for two.
    if "  " in label:
        raise ValueError("Must hold one space at a time.")
    # Refuses control and formatting characters (invisible ones, what turns the direction of writing), white space
    # other than a plain space, and code points that stand for nothing.
    if not label.isprintable():
        raise ValueError("Must hold visible characters and plain spaces only.")
    _refuse_look_alikes(label)
    return label


def _refuse_look_alikes(label: str) -> None:
    """Raises ValueError if `label` holds what only a machine can tell from something else."""
    variations = (match[1] for match in _VARIATION.finditer(label))
    if _UNSEEN.search(label) or any(unicodedata.category(each or " ")[0] in "LMNZ" for each in variations):
        raise ValueError("Must hold visible characters and plain spaces only.")
    taken_apart = _ORDINARY_LETTERS.sub("", label)
    if unicodedata.normalize("NFKC", taken_apart) != unicodedata.normalize("NFC", taken_apart):
        raise ValueError("Must hold plain characters: no full-width letters, ligatures or other variants.")
    if any(len(_alike_scripts_of(word)) > 1 for word in _words(label)):
        raise ValueError("Must not mix letters of scripts that look alike (Latin, Cyrillic, Greek …) in one word.")


def _words(label: str) -> list[str]:
    """Its runs of letters, with the marks on them."""
    return "".join(each if unicodedata.category(each)[0] in "LM" else " " for each in label).split()


def _alike_scripts_of(word: str) -> frozenset[str]:
    return _ALIKE_SCRIPTS & {unicodedata.name(each, "").partition(" ")[0] for each in word}


def read_environment_name(text: str) -> str:
    """`text` as an environment's name. Raises ValueError.

    Narrower than other names: producers send it as `environment`, and it is compared letter by letter.
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
