"""How long the slowest of many texts takes to be parsed as a query: `python -m bench.reading.parsing`.

Long ones of one piece repeated, and random ones of all pieces, each the fastest of three times in CPU time. No text may
take 50 ms.
"""

import random
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from app.errors import SchemaValidationFailed
from app.events.query.parsing import parse
from app.events.query.syntax import CHARACTERS_MAX

_PIECES: Final = (
    *("(", ")", " ", '"', "\\", "-", "- ", "NOT ", " OR ", " AND ", "[", "]", ",", "..", "*", "_", ":", ">", "<="),
    *("a", "a ", "9", "9 ", "-9 ", "1e9", "a.", "é", "\U0001f600 ", "type:a ", "type:a.* ", "severity>=error "),
    *("payload.a:1 ", "payload.a:[b,c] ", 'payload."a b".c>1e400 ', "has:payload.a ", "env:a ", "id:evu_1 ", "source:"),
    *("timestamp>=2026-06-01T10:00:00Z ", '"a b" ', "-(a OR ", "(a ", "sevrity:a ", "payload.a:x..y "),
)
_RANDOM: Final = 5_000


def _texts(chance: random.Random) -> Iterator[str]:
    for piece in _PIECES:
        yield (piece * CHARACTERS_MAX)[:CHARACTERS_MAX]
        for other in _PIECES:
            yield ((piece + other) * CHARACTERS_MAX)[:CHARACTERS_MAX]
    for _ in range(_RANDOM):
        yield "".join(chance.choices(_PIECES, k=chance.randrange(1, 400)))[:CHARACTERS_MAX]


def _seconds(text: str) -> float:
    began = time.thread_time()
    with suppress(SchemaValidationFailed):
        parse(text)
    return time.thread_time() - began


def main() -> None:
    texts = list(_texts(random.Random(1)))
    slowest = max(texts, key=lambda text: min(_seconds(text) for _ in range(3)))
    fastest = min(_seconds(slowest) for _ in range(3))
    print(f"the slowest of {len(texts)} texts takes {fastest * 1000:.1f} ms: {slowest[:60]!r}…")


if __name__ == "__main__":
    main()
