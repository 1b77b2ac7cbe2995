"""Where a proxy sends keys and tokens: a line for each cell, by the letters of ids, and one for each exception."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from sqlalchemy import text

from app.cells.operations import owner_of
from app.config import Settings

# A few ranges of the unique indexes, so that no more rows are read than there are exceptions. What is left of a
# workspace that has moved on says nothing: the cell that it lives in does.
BETWEEN: Final = text("""
    SELECT 'lrb_sk_' || substr(public_id, 5) FROM source_keys
    WHERE public_id >= 'key_' || CAST(:first AS text) AND public_id < 'key_' || CAST(:behind AS text)
        AND workspace_id NOT IN (SELECT id FROM workspaces WHERE home IS NOT NULL)
    UNION ALL
    SELECT 'lrb_mt_' || substr(public_id, 5) FROM management_tokens
    WHERE public_id >= 'tok_' || CAST(:first AS text) AND public_id < 'tok_' || CAST(:behind AS text)
        AND workspace_id NOT IN (SELECT id FROM workspaces WHERE home IS NOT NULL)
""")
_BEHIND_ALL: Final = "{"
"""Stands behind every letter and digit, as PostgreSQL's collation "C" sorts."""

Exceptions = Mapping[str, str]
"""Cells by the beginnings of credentials, each a whole id: `lrb_sk_` and its 16 characters."""


def read_exceptions(cells: Sequence[Settings]) -> Exceptions:
    """The credentials that are in another cell than the letters of their ids say.

    The first cell is the one that gets what is of none: there, ids that begin as chance has it are no exceptions.
    Raises SQLAlchemyError: without one of the cells, its exceptions would be sent to others.
    """
    names = [each.cell for each in cells]
    found: dict[str, str] = {}
    for each in cells:
        with owner_of(each) as connection:
            for first, behind in _ranges_of_exceptions(each.cell, names):
                ids = connection.execute(BETWEEN, {"first": first, "behind": behind}).scalars()
                found.update(dict.fromkeys(ids, each.cell))
    return dict(sorted(found.items()))


def nginx_map(names: Sequence[str], exceptions: Exceptions) -> Iterator[str]:
    """Lines for a `map` of nginx: it looks for whole ids before it tries expressions, whatever their order."""
    yield f"default {names[0]};"
    for name in names:
        yield f"~^lrb_(?:sk|mt)_{name} {name};"
    for credential, name in exceptions.items():
        yield f"{credential} {name};"


def haproxy_map(names: Sequence[str], exceptions: Exceptions) -> Iterator[str]:
    """Lines for `map_beg` of HAProxy, which takes the longest beginning."""
    yield f"lrb_ {names[0]}"
    for name in names:
        yield f"lrb_sk_{name} {name}"
        yield f"lrb_mt_{name} {name}"
    for credential, name in exceptions.items():
        yield f"{credential} {name}"


FORMATS: Final[Mapping[str, Callable[[Sequence[str], Exceptions], Iterator[str]]]] = {
    "nginx": nginx_map,
    "haproxy": haproxy_map,
}


def _ranges_of_exceptions(name: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """What ids of a cell begin with (from, up to) that the letters alone would not send there."""
    if name == names[0]:
        return [(other, _next(other)) for other in names[1:]]
    return [("", name), (_next(name), _BEHIND_ALL)]


def _next(name: str) -> str:
    """What comes after all ids that begin with `name`."""
    return name[:-1] + chr(ord(name[-1]) + 1)
