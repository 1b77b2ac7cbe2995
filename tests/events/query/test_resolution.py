"""Names of sources, keys and environments: looked up once, and an unknown one is answered with its place."""

import pytest

from app.errors import SchemaValidationFailed
from app.events.query.fields import Field
from app.events.query.nodes import And, Named, Node, Not, Or
from app.events.query.parsing import parse
from app.events.query.printing import print_query
from app.events.query.resolution import KnownNames, bound, names_in

_KNOWN = KnownNames(
    sources={"src_1": 1},
    keys={"key_1": 2},
    environments={"production": (3, 4), "env_3": (3,), "staging": (5,)},
)


def _ids(node: Node) -> list[tuple[int, ...] | None]:
    match node:
        case Named():
            return [node.ids]
        case And(items) | Or(items):
            return [ids for item in items for ids in _ids(item)]
        case Not(item):
            return _ids(item)
        case _:
            return []


def test_every_name_gets_its_inner_ids_and_the_query_stays_the_same() -> None:
    node = parse("source:src_1 -(key:key_1 OR env:[production, staging]) env:env_3 payload.source:src_9")

    resolved = bound(node, _KNOWN)

    assert _ids(resolved) == [(1,), (2,), (3, 4, 5), (3,)]
    assert resolved == node
    assert print_query(resolved) == print_query(node)


def test_the_names_to_look_up_are_those_that_the_query_gives() -> None:
    node = parse("source:[src_1, src_2] -(source:src_3 OR key:key_1) env:staging src_4")

    assert names_in(node, Field.SOURCE) == {"src_1", "src_2", "src_3"}
    assert names_in(node, Field.KEY) == {"key_1"}
    assert names_in(node, Field.ENVIRONMENT) == {"staging"}


def test_each_unknown_name_is_answered_with_its_place_and_environments_with_the_nearest() -> None:
    text = "source:[src_1, src_2] -(key:key_9 OR env:prodution)"

    with pytest.raises(SchemaValidationFailed) as refused:
        bound(parse(text), _KNOWN, pointer="/query")

    faults = refused.value.faults
    assert [text[fault.offset or 0 :][: fault.length] for fault in faults] == ["src_2", "key_9", "prodution"]
    assert [fault.suggestions for fault in faults] == [(), (), ("production",)]
    assert {fault.pointer for fault in faults} == {"/query"}
