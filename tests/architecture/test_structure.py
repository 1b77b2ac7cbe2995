"""The structure of the code: which module may import which, which may commit, how large they may be."""

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from flask import Flask

_CHECKOUT = Path(__file__).parent.parent.parent
_FILES = sorted([*(_CHECKOUT / "app").rglob("*.py"), *(_CHECKOUT / "local").rglob("*.py"), _CHECKOUT / "wsgi.py"])

# What only entry points may import.
_ENTRY_POINTS = {"app.factory", "app.api", "app.worker"}
_MAY_IMPORT_ENTRY_POINTS = {"wsgi", *_ENTRY_POINTS}
# The files that may know Flask: the framework's own, and the routes.
_MAY_IMPORT_FLASK = re.compile(
    r"wsgi|app\.(factory|api|context)|app\.cli\..*|app\.web\..*"
    r"|app\.ingest\.routes|app\.management\.(.*\.)?(routes|schemas|blueprint|guard|openapi|operation|parsing|replay|responses)"
    r"|app\.events\.(.*\.)?(routes|answers|blueprint)|app\.monitoring\.metrics_route"
)
# The path of an event, top to bottom: each module may import only those below it, and what lies below the path.
_INGEST_PATH = [
    *("fast_path", "routes", "event", "verdicts", "acceptance", "waits", "services", "authentication", "committer"),
    *("contention", "contention_round", "shares", "pending_write", "retries", "table_locks", "storage"),
    *("common_envelope", "envelope"),
]
_FORBIDDEN = {
    "app.ingest": ("celery", "redis", "app.management", "app.maintenance", "local"),
    "app.management": ("celery", "redis", "app.ingest", "app.events", "app.maintenance", "local"),
    "app.events": ("celery", "redis", "app.ingest", "app.maintenance", "local"),
    "app.events.query": ("flask", "app.database", "app.models", "app.management"),
    "app.jobs": ("flask", "celery", "redis", "local"),
    "app.maintenance": ("flask", "app.ingest", "app.management", "local"),
    "app.models": ("flask", "celery", "app.ingest", "app.management", "app.maintenance", "app.database"),
    "app.credentials": ("sqlalchemy", "flask", "app.database", "app.models"),
    "app.errors": ("flask", "werkzeug", "app."),
}
# The one module of a package that knows what the others do not.
_EXCEPTIONS = {"app.credentials.table": {"sqlalchemy", "app.database"}}


def _name(path: Path) -> str:
    parts = path.relative_to(_CHECKOUT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


_MODULES = {_name(path): path for path in _FILES}
_TREES = {name: ast.parse(path.read_text()) for name, path in _MODULES.items()}


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield inner if inner in _MODULES else module


_GRAPH = {name: {target for target in _imports(tree) if target in _MODULES} for name, tree in _TREES.items()}


def test_imports_make_no_circle() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for target in _GRAPH[name] - {name}:
                visit(target, (*path, name))
            done.add(name)

    for name in _GRAPH:
        visit(name, ())


def test_only_entry_points_import_entry_points() -> None:
    guilty = {name for name, targets in _GRAPH.items() if targets & _ENTRY_POINTS} - _MAY_IMPORT_ENTRY_POINTS

    assert guilty == set()


_OUTSIDE = {"local", "tests", "bench", "contract"}
_MAY_NOT_IMPORT = {"app": _OUTSIDE, "local": {"tests", "bench", "contract"}, "bench": {"tests", "contract"}}


@pytest.mark.parametrize("package", sorted(_MAY_NOT_IMPORT))
def test_neither_product_nor_local_run_nor_benchmarks_import_what_is_above_them(package: str) -> None:
    guilty = {
        f"{path.relative_to(_CHECKOUT)} imports {target}"
        for path in (_CHECKOUT / package).rglob("*.py")
        for target in _imports(ast.parse(path.read_text()))
        if target.split(".")[0] in _MAY_NOT_IMPORT[package]
    }

    assert guilty == set()


def test_the_wheel_holds_the_product_alone() -> None:
    """The local run, the benchmarks and the tests are for a checkout."""
    find = tomllib.loads((_CHECKOUT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]

    assert find == {"include": ["app*"]}


def test_only_routes_and_the_framework_files_know_flask() -> None:
    flask = ("flask", "werkzeug", "flask_smorest", "webargs")
    guilty = {
        name
        for name, tree in _TREES.items()
        if any(target.split(".")[0] in flask for target in _imports(tree)) and not _MAY_IMPORT_FLASK.fullmatch(name)
    }

    assert guilty == set()


@pytest.mark.parametrize("package", sorted(_FORBIDDEN))
def test_a_package_does_not_import_what_is_forbidden_to_it(package: str) -> None:
    guilty = {
        f"{name} imports {target}"
        for name, tree in _TREES.items()
        if name == package or name.startswith(f"{package}.")
        for target in _imports(tree)
        for word in set(_FORBIDDEN[package]) - _EXCEPTIONS.get(name, set())
        if target == word or target.startswith(word.rstrip(".") + ".")
    }

    assert guilty == set()


def test_the_ingest_path_imports_downwards_only() -> None:
    for height, file in enumerate(_INGEST_PATH):
        above = {f"app.ingest.{higher}" for higher in _INGEST_PATH[:height]}
        assert not _GRAPH[f"app.ingest.{file}"] & above, file


def test_nothing_is_imported_inside_a_function() -> None:
    guilty = {
        f"{name}:{node.lineno}"
        for name, tree in _TREES.items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }

    assert guilty == set()


def test_only_the_database_commits() -> None:
    guilty = {name for name, path in _MODULES.items() if re.search(r"\.commit\(|autocommit", path.read_text())}

    # The embedded server's provisioning runs CREATE DATABASE, and the owner CREATE INDEX CONCURRENTLY, which no
    # transaction allows.
    assert guilty - {"local.roles"} == {
        "app.database.dedicated_connection",
        "app.database.engine",
        "app.database.owner",
    }


def test_nothing_is_decided_by_what_postgresql_says_in_words() -> None:
    """It says it in the server's language. Its words may be passed on; codes, names and its own tables decide."""
    in_words = re.compile(r"\.diag\.(context|message_detail|message_hint)|\bin \(?(str\(error|error\.diag\.message)")
    guilty = {name for name, path in _MODULES.items() if in_words.search(path.read_text())}

    assert guilty == set()


def test_only_the_entry_points_read_the_environment() -> None:
    guilty = {name for name, path in _MODULES.items() if re.search(r"os\.environ|getenv", path.read_text())}

    assert {name for name in guilty if name.split(".")[0] != "local"} == {"wsgi"}


def test_a_query_for_what_belongs_to_a_workspace_begins_inside_one() -> None:
    owned = "Project|Environment|Source|SourceKey|ManagementToken|Export|Consumer|ReadHour"
    guilty = {
        f"{name}: {match[0]}"
        for name, path in _MODULES.items()
        if not name.startswith("app.models")
        for match in re.finditer(rf"\bselect\((?:{owned})\b|\.get\((?:{owned}),|\.query\(", path.read_text())
    }

    assert guilty == set()


def test_app_holds_no_loose_module_but_the_entry_points_and_what_all_may_import() -> None:
    entry_points, shared = {"factory", "api", "worker"}, {"config", "errors", "context", "identifiers"}

    assert {path.stem for path in (_CHECKOUT / "app").glob("*.py")} == entry_points | shared | {"__init__"}


def test_every_module_has_a_docstring() -> None:
    assert [name for name, tree in _TREES.items() if not ast.get_docstring(tree)] == []


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for path in _FILES} - {_CHECKOUT}

    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


# The vocabulary that this code once had of its own, for the ingest path, connections, contention, usage, ...
_PRIVATE_WORDS = re.compile(
    r"(?<![a-z])(bell|born|contested|desk|door|greet|ground ?floor|house|impatient|lane|nobody|road|roof|room|settle"
    r"|somebody|stranded|submission|tallie|tally|told|trail|upkeep|wall|warm|whoever)(s|d|ed)?(?![a-z])"
)
_MAY_SAY = {
    "app.errors": {"told", "whoever"},  # two messages that clients have always received
    "app.monitoring.status_report": {"upkeep"},  # a member of the JSON that `flask status` prints
}


def _prose(source: str) -> Iterator[str]:
    """The names and comments of a module, and the texts that stand as statements: its docstrings."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.NAME, tokenize.COMMENT):
            yield token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def _private_words_in(texts: Iterable[str]) -> set[str]:
    """Also within names: `open_door` and `OpenDoor` hold `door`, `indoor` does not."""
    words = (re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text).lower() for text in texts)
    return {found[1] for text in words for found in _PRIVATE_WORDS.finditer(text)}


def test_private_words_do_not_return() -> None:
    """Names, comments and docstrings use the field's terms (docs/glossary.md)."""
    scripts = {path: [path.read_text()] for path in (_CHECKOUT / "app").rglob("*.sql")}
    modules = {path: _prose(path.read_text()) for path in [*_FILES, *(_CHECKOUT / "migrations").rglob("*.py")]}
    found = {_name(path): _private_words_in([_name(path), *texts]) for path, texts in (scripts | modules).items()}

    assert {name: words for name, words in found.items() if words} == _MAY_SAY


def test_no_private_word_is_served(app: Flask) -> None:
    """The texts of the OpenAPI document and of the pages, most of which stand in no docstring."""
    client = app.test_client()
    texts = [client.get(path).text for path in ("/openapi.json", "/", "/docs", "/docs/docs.js")]
    texts.append(client.get("/", headers={"Accept": "text/html"}).text)

    assert _private_words_in(texts) == _MAY_SAY["app.errors"]


@pytest.mark.parametrize("text", ["the roads", "_DOOR", "OpenDoor", "open_door", "# ground floor", "Nobody"])
def test_a_private_word_is_found_in_any_form(text: str) -> None:
    assert _private_words_in([text])


@pytest.mark.parametrize("text", ["broad", "household", "environment", "a trailing comma", "warmth"])
def test_a_word_that_only_looks_like_one_is_not(text: str) -> None:
    assert not _private_words_in([text])


def test_no_file_is_longer_than_300_lines_and_no_function_longer_than_50() -> None:
    long_files = {name: n for name, path in _MODULES.items() if (n := path.read_text().count("\n")) > 300}
    long_functions = {
        f"{name}.{node.name}": lines
        for name, tree in _TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and (lines := (node.end_lineno or 0) - node.lineno + 1) > 50
    }

    assert (long_files, long_functions) == ({}, {})


def test_the_readme_and_the_docs_link_to_files_that_exist() -> None:
    pages = [*_CHECKOUT.glob("*.md"), *(_CHECKOUT / "docs").rglob("*.md"), *(_CHECKOUT / "app").rglob("*.md")]
    broken = [
        f"{page.relative_to(_CHECKOUT)} -> {link}"
        for page in pages
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
        if not (page.parent / link).exists()
    ]

    assert broken == []


def test_a_session_that_a_test_ends_is_waited_for() -> None:
    """Else it sends a signal and returns: on a busy machine the test would run on before its effect."""
    ends_another = re.compile(r"pg_terminate_backend\((?!pg_backend_pid\(\))(?!pid, [0-9]+\))")
    files = [path for path in (_CHECKOUT / "tests").rglob("*.py") if path != Path(__file__)]

    assert [str(path) for path in files if ends_another.search(path.read_text())] == []
