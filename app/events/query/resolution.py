"""Names of sources, keys and environments → inner ids. Which names there are is for the caller to look up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from app.events.query.faults import Faults, nearest
from app.events.query.fields import Field
from app.events.query.nodes import And, Named, Node, Not, Or

_KINDS = {Field.SOURCE: "source", Field.KEY: "key", Field.ENVIRONMENT: "environment"}


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownNames:
    """What a project has: inner ids by public id. Of environments all, also by name, so that the nearest can be said;
    several may have had one name. Of sources and keys those that the query names.
    """

    sources: Mapping[str, int]
    keys: Mapping[str, int]
    environments: Mapping[str, Sequence[int]]


def names_in(node: Node, field: Field) -> frozenset[str]:
    """The names that a query gives for sources, keys or environments."""
    return frozenset(name.text for leaf in _named(node) if leaf.subject is field for name in leaf.names)


def _named(node: Node) -> list[Named]:
    match node:
        case And(items) | Or(items):
            return [leaf for item in items for leaf in _named(item)]
        case Not(item):
            return _named(item)
        case Named():
            return [node]
        case _:
            return []


def bound(node: Node, known: KnownNames, *, pointer: str = "/q") -> Node:
    """The same query with the inner ids of all names. Raises SchemaValidationFailed with each unknown name's place."""
    faults = Faults(pointer)
    resolved = _bound(node, known, faults)
    faults.refuse_if_any()
    return resolved


def _bound(node: Node, known: KnownNames, faults: Faults) -> Node:
    match node:
        case And(items):
            return And(tuple(_bound(item, known, faults) for item in items))
        case Or(items):
            return Or(tuple(_bound(item, known, faults) for item in items))
        case Not(item):
            return Not(_bound(item, known, faults))
        case Named():
            return replace(node, ids=_ids(node, known, faults))
        case _:
            return node


def _ids(leaf: Named, known: KnownNames, faults: Faults) -> tuple[int, ...]:
    ids: list[int] = []
    for name in leaf.names:
        if leaf.subject is Field.ENVIRONMENT:
            found = known.environments.get(name.text, ())
        else:
            one = (known.sources if leaf.subject is Field.SOURCE else known.keys).get(name.text)
            found = () if one is None else (one,)
        if not found:
            suggestions = nearest(name.text, known.environments) if leaf.subject is Field.ENVIRONMENT else ()
            faults.add(name.place, f"This project has no {_KINDS[leaf.subject]} of this name.", suggestions)
        ids += found
    return tuple(ids)
