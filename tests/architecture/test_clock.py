"""Who may read a machine's own clock: all others would decide by it, and there are as many of those as machines."""

import ast
from collections.abc import Iterator
from pathlib import Path

_APP = Path(__file__).parent.parent.parent / "app"
# Why it does no harm there.
_MAY_READ_IT = {
    "database/clock.py": "it is held against PostgreSQL's",
    "identifiers.py": "the order of ids; no id is compared with a moment",
    "telemetry/access_log.py": "when a line was written into the log",
    "worker.py": "where beat's steady clock begins",
    "maintenance/export.py": "the age of a file of this machine",
}
_READS_IT = {
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("datetime", "today"),
    ("date", "today"),
    ("time", "time"),
    ("time", "time_ns"),
    ("time", "localtime"),
    ("time", "gmtime"),
}


def _reads_it(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in _READS_IT:
                yield node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (node.lineno for alias in node.names if ("time", alias.name) in _READS_IT)


def test_only_those_who_decide_nothing_by_it_read_a_machines_own_clock() -> None:
    product = sorted(_APP.rglob("*.py"))
    found = {str(path.relative_to(_APP)) for path in product if any(_reads_it(ast.parse(path.read_text())))}

    assert found == set(_MAY_READ_IT)
