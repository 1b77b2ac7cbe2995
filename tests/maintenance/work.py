"""Real work for each task of the schedule, and how it must look when it is done: nothing lost, nothing doubled.

A task that is added without an entry here fails tests/maintenance/test_killed.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tests.maintenance.holding import Root

_ROWS = 20_000
"""Some hundred milliseconds for a task that goes in batches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    lay_out: Callable[[Root], object]
    """Clears away what earlier runs have left, and lays out the work."""
    left: Callable[[Root], int]
    """How much of it is still to be done."""
    check: Callable[[Root], None]
    """Asserts that all of it is done, once."""


def _count(root: Root, statement: str) -> int:
    row = root.execute(statement).fetchone()
    assert row is not None
    return int(row[0])


def _no_work() -> Work:
    return Work(lay_out=lambda _: None, left=lambda _: 0, check=lambda _: None)


def _usage() -> Work:
    """Rows of forty keys."""

    def lay_out(root: Root) -> None:
        root.execute("TRUNCATE usage_outbox, usage_hours")
        root.execute(
            "INSERT INTO usage_outbox"
            " (project_id, usage_uid, source_id, source_key_id, outcome, events, payload_bytes, received_at)"
            " SELECT 7, gen_random_uuid(), 7, n % 40, (ARRAY['stored', 'duplicate', 'replayed'])[1 + n % 3], 1, n,"
            f" now() FROM generate_series(1, {_ROWS}) AS n"
        )

    def check(root: Root) -> None:
        counted = root.execute(
            "SELECT source_key_id, sum(events)::int, sum(payload_bytes)::bigint FROM usage_hours GROUP BY 1 ORDER BY 1"
        ).fetchall()
        expected = [(key, _ROWS // 40, sum(range(key or 40, _ROWS + 1, 40))) for key in range(40)]
        assert counted == expected

    return Work(lay_out=lay_out, left=lambda root: _count(root, "SELECT count(*) FROM usage_outbox"), check=check)


def _purge(table: str, columns: str, values: str, prepare: str = "SELECT") -> Work:
    """As many rows that are still good as rows that have expired: those go, these stay."""

    def lay_out(root: Root) -> None:
        root.execute(f"TRUNCATE {table}")
        root.execute(prepare)
        for key, expires in (("old", "now() - interval '1 day'"), ("new", "now() + interval '1 day'")):
            root.execute(
                f"INSERT INTO {table} ({columns}, idempotency_key, fingerprint, created_at, expires_at)"
                f" SELECT {values}, '{key}' || n, '', now(), {expires} FROM generate_series(1, {_ROWS}) AS n"
            )

    def check(root: Root) -> None:
        assert _count(root, f"SELECT count(*) FROM {table} WHERE idempotency_key LIKE 'new%'") == _ROWS

    left = f"SELECT count(*) FROM {table} WHERE idempotency_key LIKE 'old%'"
    return Work(lay_out=lay_out, left=lambda root: _count(root, left), check=check)


_DAYS_AHEAD = (
    "SELECT to_char((now() AT TIME ZONE 'UTC')::date + n, '\"events_\"YYYYMMDD') FROM generate_series(1, 6) AS n"
)


def _partitions() -> Work:
    """The days from tomorrow on are missing. Not counting the last one: midnight may come in between."""

    def lay_out(root: Root) -> None:
        for (name,) in root.execute(_DAYS_AHEAD).fetchall():
            root.execute(f"DROP TABLE IF EXISTS {name}")

    def left(root: Root) -> int:
        return _count(root, f"SELECT count(*) FROM ({_DAYS_AHEAD}) AS day (name) WHERE to_regclass(name) IS NULL")

    def check(root: Root) -> None:
        attached = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass AND inhrelid::regclass::text"
        assert _count(root, f"{attached} IN ({_DAYS_AHEAD})") == 6

    return Work(lay_out=lay_out, left=left, check=check)


WORK = {
    "canary": _no_work(),
    "fold_usage": _usage(),
    "purge_idempotency_records": _purge(
        "idempotency_records",
        "project_id, source_id, event_uid, response_status, response_body",
        "7, 7, gen_random_uuid(), 201, ''",
    ),
    "purge_management_requests": _purge(
        "management_requests",
        "workspace_id, actor",
        "7, 'tok_x'",
        "INSERT INTO workspaces (id, public_id, name) OVERRIDING SYSTEM VALUE VALUES (7, 'ws_7', 'Acme')"
        " ON CONFLICT DO NOTHING",
    ),
    "make_event_partitions": _partitions(),
}
