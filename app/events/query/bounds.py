"""What the hourly counts can say of a query: all of it, or which of their rows it can only lie in."""

from app.events.query.fields import ROLLED_UP
from app.events.query.nodes import (
    And,
    Between,
    Compared,
    Everything,
    Leaf,
    Named,
    Node,
    Not,
    OneOf,
    Or,
    PayloadPath,
    all_of,
    any_of,
    negated,
)


def is_rollup(node: Node) -> bool:
    """Whether the query has only fields by which the hourly counts are split: then they count it exactly."""
    match node:
        case Everything():
            return True
        case And(items) | Or(items):
            return all(map(is_rollup, items))
        case Not(item):
            return is_rollup(item)
        case _:
            return _is_counted(node)


def upper_bound(node: Node) -> Node:
    """A query of such fields alone that every event fulfils which fulfils `node`."""
    return _bound(node, is_negated=False)


def _bound(node: Node, *, is_negated: bool) -> Node:
    match node:
        case Not(item):
            return _bound(item, is_negated=not is_negated)
        case And(items) | Or(items):
            bounds = [_bound(item, is_negated=is_negated) for item in items]
            # What fulfils not all of some, fails one of them.
            return any_of(bounds) if isinstance(node, Or) is not is_negated else all_of(bounds)
        case Everything():
            return node
        case _ if _is_counted(node):
            return negated(node) if is_negated else node
        case _:
            return Everything()


def _is_counted(leaf: Leaf) -> bool:
    match leaf:
        case Named():
            return True
        case OneOf(subject) | Compared(subject) | Between(subject):
            return not isinstance(subject, PayloadPath) and subject in ROLLED_UP
        case _:
            return False
