"""Text → node. No text takes longer than its length allows, and none raises anything but SchemaValidationFailed."""

import re
from typing import Any, Final

from lark import Tree, UnexpectedToken
from lark.exceptions import UnexpectedInput

from app.events.query.faults import Faults
from app.events.query.grammar import PARSER
from app.events.query.leaves import read_leaf
from app.events.query.nodes import Everything, Node, Place, all_of, any_of, negated
from app.events.query.printing import print_query
from app.events.query.syntax import CHARACTERS_MAX, Reading, Refused
from app.events.query.values import LeafFault

# Neither can be stored, so PostgreSQL would refuse the parameter.
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")


def parse(text: str, *, pointer: str = "/q") -> Node:
    """The query that `text` says; `pointer` is where the request has it.

    Raises SchemaValidationFailed with every fault that can be found at once, each with its place.
    """
    faults = Faults(pointer)
    _check_characters(text, faults)
    node = _Builder(faults).build(_tree(text, faults))
    faults.refuse_if_any()
    # What is kept and shown is the normalized text, which must be a query as well.
    if len(print_query(node)) > CHARACTERS_MAX:
        faults.add(Place(0, len(text)), f"Written out, a query has at most {CHARACTERS_MAX} characters.")
    faults.refuse_if_any()
    return node


def _check_characters(text: str, faults: Faults) -> None:
    if len(text) > CHARACTERS_MAX:
        place = Place(CHARACTERS_MAX, len(text) - CHARACTERS_MAX)
        faults.add(place, f"A query has at most {CHARACTERS_MAX} characters.")
    elif unstorable := _UNSTORABLE.search(text):
        faults.add(Place(unstorable.start(), 1), "No stored event holds this character.")
    faults.refuse_if_any()


def _tree(text: str, faults: Faults) -> Tree[Any]:
    reading = Reading(text, faults)
    parser = PARSER.parse_interactive(text)
    try:
        for token in parser.iter_parse():
            reading.take(token)
        tree: Tree[Any] = parser.feed_eof()  # type: ignore[no-untyped-call]
    except Refused:
        raise faults.refusal() from None
    except UnexpectedInput as error:
        reading.stop_at(_position(error, text))
        raise faults.refusal() from None
    return tree


def _position(error: UnexpectedInput, text: str) -> int:
    is_end = isinstance(error, UnexpectedToken) and error.token.type == "$END"
    position: Any = error.pos_in_stream
    return len(text) if is_end or position is None else int(position)


class _Builder:
    """Makes nodes of the parser's tree, which is no deeper than syntax.py allows."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def build(self, tree: Tree[Any]) -> Node:
        match tree.data:
            case "start":
                return self.build(tree.children[0]) if tree.children else Everything()
            case "any":
                return any_of(map(self.build, tree.children))
            case "all":
                return all_of(map(self.build, tree.children))
            case "negated":
                return negated(self.build(tree.children[0]))
            case kind:
                return self._leaf(kind, tree.children)

    def _leaf(self, kind: str, tokens: list[Any]) -> Node:
        try:
            return read_leaf(kind, tokens)
        except LeafFault as fault:
            self._faults.add(fault.place, fault.message, fault.suggestions)
            return Everything()
