"""What the name of a cell is good for: it begins the ids of credentials, and gives the cell its own range of row ids.

Names have one length, so none is the beginning of another, and a proxy can tell them from the first characters of an id
(deploy/nginx). An installation of one cell need not name it: then ids begin as chance has it, and rows are numbered
from 1.
"""

import re
import string
from typing import Final

CELL_CHARACTERS: Final = 3
CELL_HEADER: Final = "Lariba-Cell"
"""Of a request without a credential, such as a health check: its cell. Of a response: the cell to send it to."""
ROW_IDS: Final = 1 << 32
"""How many row ids of each table a cell has: rows that move to another cell keep theirs, and meet none there."""

_NAME: Final = re.compile(rf"[a-z][a-z0-9]{{{CELL_CHARACTERS - 1}}}")
_FIRST: Final = string.ascii_lowercase
_REST: Final = string.ascii_lowercase + string.digits


def read_name(text: str) -> str:
    """The name of a cell. Raises ValueError with a sentence for the operator."""
    if not _NAME.fullmatch(text):
        raise ValueError(f"{text!r} names no cell: a letter and {CELL_CHARACTERS - 1} letters or digits, as in eu1")
    return text


def named_in(credential: str) -> str:
    """What would be the name of the cell in the text of a credential, or in its public id; nothing looks further.

    `lrb_sk_eu1…`, `key_eu1…`: whether there is such a cell, only the installation knows.
    """
    return credential.removeprefix("lrb_").partition("_")[2][:CELL_CHARACTERS]


def row_ids(name: str) -> range:
    """The row ids of a named cell. Ids below are those of a cell without a name, also after it got one.

    A number of 48 bits at the most: advisory locks have 16 more (app/database/advisory_locks.py).
    """
    number = _FIRST.index(name[0])
    for character in name[1:]:
        number = number * len(_REST) + _REST.index(character)
    first = (number + 1) * ROW_IDS
    return range(first, first + ROW_IDS)
