"""Gives each request of a process that serves several cells to the cell of its key or token. Knows no framework."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Generic, TypeVar

from app.cells.names import CELL_HEADER, named_in

Served = TypeVar("Served")

# A browser's, which has no other place for it.
_KEY_IN_QUERY: Final = re.compile(r"(?:^|&)key=(lrb_sk_[0-9A-Za-z]+)")


class ServedCells(Generic[Served]):
    """What serves each of some cells, by name. The first has what is of none of them, and answers that as it must."""

    def __init__(self, served: Mapping[str, Served]) -> None:
        self._served = dict(served)
        self._first = next(iter(self._served.values()))

    def of_request(self, header: Callable[[str], str | None], query: str) -> Served:
        """`header` returns the value of a header by its name in lower case."""
        for credential in (header("x-api-key"), (header("authorization") or "").rpartition(" ")[2], _key_in(query)):
            if credential:
                return self._served.get(named_in(credential), self._first)
        return self._served.get(header(CELL_HEADER.lower()) or "", self._first)


class CellSwitch:
    """The WSGI application in front of those of several cells."""

    def __init__(self, applications: Mapping[str, Callable[..., Iterable[bytes]]]) -> None:
        self._cells = ServedCells(applications)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        application = self._cells.of_request(
            lambda name: environ.get(f"HTTP_{name.upper().replace('-', '_')}"), environ.get("QUERY_STRING", "")
        )
        return application(environ, start_response)


def _key_in(query: str) -> str | None:
    found = _KEY_IN_QUERY.search(query)
    return found and found[1]
