"""Which modules may see the rows of all workspaces at once, and why."""

import ast
import re
from pathlib import Path

_CHECKOUT = Path(__file__).parent.parent.parent
_TREES = {
    ".".join(path.relative_to(_CHECKOUT).with_suffix("").parts): ast.parse(path.read_text())
    for path in [*(_CHECKOUT / "app").rglob("*.py"), *(_CHECKOUT / "local").rglob("*.py"), _CHECKOUT / "wsgi.py"]
}

# A name that ends in a dot stands for all modules of that package.
_MAY_SEE_ALL = {
    "app.database.engine": "makes it",
    "app.credentials.table": "finds out whose key or token it is; its workspace is unknown before",
    "app.ingest.cors": "asks whether anybody's browser key is for an origin; a preflight has no key",
    "app.counting.flushed": "writes what all keys and tokens of a process have been refused and have read",
    "app.management.workspace.domain": "the operator's shell, which stands above all workspaces",
    "app.cli.revocation": "the shell finds the workspace of a key or token that it revokes",
    "app.management.keys.queries": "the same: its report on the keys of all workspaces",
    "app.events.feed.followers": "one thread asks for all followers of a process whether something has come",
    "app.jobs.": "gives the jobs of all workspaces their turns, and removes their files",
    "app.rate_limits.overrides": "every process reads all limits at once",
    "app.maintenance.": "the worker works for all workspaces",
    "app.monitoring.system_status": "the state of the installation is of no workspace",
    "app.monitoring.consumer_status": "the same: how far consumers are behind",
    "local.demo": "makes the demo workspace, as the operator's shell would",
}


def _sees_all_workspaces(tree: ast.AST) -> bool:
    """Whether it names TenantScope.ALL, or hands the scopes on under another name."""
    return any(
        (isinstance(node, ast.Attribute) and node.attr == "ALL" and getattr(node.value, "id", "") == "TenantScope")
        or (isinstance(node, ast.alias) and node.name == "TenantScope" and node.asname is not None)
        or (isinstance(node, ast.Assign) and getattr(node.value, "id", "") == "TenantScope")
        for node in ast.walk(tree)
    )


def _may(module: str, name: str) -> bool:
    return module == name or (name.endswith(".") and module.startswith(name))


def test_only_who_has_a_reason_sees_all_workspaces_at_once() -> None:
    seeing = {module for module, tree in _TREES.items() if _sees_all_workspaces(tree)}

    assert {module for module in seeing if not any(_may(module, name) for name in _MAY_SEE_ALL)} == set()
    assert {name for name in _MAY_SEE_ALL if not any(_may(module, name) for module in seeing)} == set()


def test_only_the_database_sets_what_row_security_reads() -> None:
    spelled = {
        module
        for module, tree in _TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        if isinstance(node.value, str) and re.search(r"lariba\.(all_workspaces|workspace)\b", node.value)
    }

    assert spelled == {"app.database.engine"}


def test_a_query_for_the_audit_log_begins_inside_a_workspace() -> None:
    guilty = {
        f"{module}:{node.lineno}"
        for module, tree in _TREES.items()
        if not module.startswith("app.models")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in ("select", "get")
        if any(isinstance(each, ast.Name) and each.id == "AuditEntry" for each in node.args)
    }

    assert guilty == set()


def test_the_audit_log_has_one_writer() -> None:
    def is_written(node: ast.AST) -> bool:
        if isinstance(node, ast.Constant):
            return isinstance(node.value, str) and "INTO audit_entries" in node.value
        if not isinstance(node, ast.Call):
            return False
        named = [each.id for each in (node.func, *node.args) if isinstance(each, ast.Name)]
        return named[:1] == ["AuditEntry"] or named[:2] == ["insert", "AuditEntry"]

    writing = {module for module, tree in _TREES.items() if any(is_written(node) for node in ast.walk(tree))}

    assert writing == {"app.audit.entries"}
