"""Real work for each task of the schedule, and how it must look when it is done: nothing lost, nothing doubled.

A task that is added without an entry here fails tests/maintenance/test_killed.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

from psycopg.errors import UndefinedTable

from app.maintenance.search_indexes import INDEXES
from tests.support.holding import Root

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


def _count_if_there(root: Root, table: str) -> int:
    """0 for one that is not there yet, or not any more: a look before could be out of date at once."""
    try:
        return _count(root, f"SELECT count(*) FROM {table}")
    except UndefinedTable:
        return 0


def _no_work() -> Work:
    return Work(lay_out=lambda _: None, left=lambda _: 0, check=lambda _: None)


def _usage() -> Work:
    """Rows of forty keys."""

    def lay_out(root: Root) -> None:
        root.execute("TRUNCATE usage_outbox, usage_hours")
        root.execute(
            "INSERT INTO usage_outbox"
            " (project_id, usage_uid, workspace_id, source_id, source_key_id, outcome, events, payload_bytes,"
            " received_at) SELECT 7, gen_random_uuid(), 7, 7, n % 40,"
            " (ARRAY['stored', 'duplicate', 'replayed'])[1 + n % 3], 1, n,"
            f" now() - interval '3 minutes' FROM generate_series(1, {_ROWS}) AS n"
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


def _event_ids() -> Work:
    """As many old ones as young ones."""

    def lay_out(root: Root) -> None:
        root.execute("TRUNCATE event_ledger")
        for name, days in (("old", 91), ("new", 1)):
            root.execute(
                f"INSERT INTO event_ledger SELECT 7, 7, 7, '{name}' || n, gen_random_uuid(), '',"
                f" now() - interval '{days} days' FROM generate_series(1, {_ROWS}) AS n"
            )

    def check(root: Root) -> None:
        assert _count(root, "SELECT count(*) FROM event_ledger WHERE event_id LIKE 'new%'") == _ROWS

    left = "SELECT count(*) FROM event_ledger WHERE event_id LIKE 'old%'"
    return Work(lay_out=lay_out, left=lambda root: _count(root, left), check=check)


_DAY = "((now() AT TIME ZONE 'UTC')::date - {age})"
_PARTITION = "to_char(" + _DAY + ", '\"events_\"YYYYMMDD')"
_EVENTS_A_DAY = 2_000


def _lay_out_day(root: Root, age: int, *projects: int, in_default: bool = False) -> None:
    """A day of the past with so many events of each project, in a partition of its own or in the default one."""
    (name,) = root.execute("SELECT " + _PARTITION.format(age=age)).fetchone() or ("",)
    root.execute(f"DROP TABLE IF EXISTS {name}, {name}_next")
    begin = f"{_DAY.format(age=age)}::timestamp AT TIME ZONE 'UTC'"
    root.execute(
        f"DELETE FROM events_default WHERE received_at >= {begin} AND received_at < {begin} + interval '1 day'"
    )
    if not in_default:
        root.execute(f"SELECT make_event_partitions({_DAY.format(age=age)}, 1)")
    for project in projects:
        root.execute(
            "INSERT INTO events (project_id, received_at, event_uid, workspace_id, environment_id, source_id,"
            " source_key_id, event_id, event_type, severity, occurred_at, payload)"
            f" SELECT {project}, {begin} + n * interval '1 second', gen_random_uuid(), {project}, 1, 1, 1, n::text,"
            f" 'a.b', 'info', now(), '{{}}' FROM generate_series(1, {_EVENTS_A_DAY}) AS n"
        )


def _events_of(root: Root, age: int, project: int) -> int:
    begin = f"{_DAY.format(age=age)}::timestamp AT TIME ZONE 'UTC'"
    on_that_day = f"received_at >= {begin} AND received_at < {begin} + interval '1 day'"
    return _count(root, f"SELECT count(*) FROM events WHERE project_id = {project} AND {on_that_day}")


def _attached(root: Root, ages: range) -> int:
    names = ", ".join(_PARTITION.format(age=age) for age in ages)
    attached = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass AND inhrelid::regclass::text"
    return _count(root, f"{attached} IN ({names})")


def _default_partition_rows() -> Work:
    """Three closed days whose events lie in the default partition."""
    ages = range(20, 23)

    def copied(root: Root) -> int:
        tables = [f"{name}_next" for age in ages for (name,) in root.execute("SELECT " + _PARTITION.format(age=age))]
        return sum(_count_if_there(root, it) for it in tables)

    def lay_out(root: Root) -> None:
        for age in ages:
            _lay_out_day(root, age, 7, in_default=True)

    def left(root: Root) -> int:
        """Events without a copy, and one step more until the copies are what is read."""
        rows = _count(root, "SELECT count(*) FROM events_default WHERE project_id = 7")
        is_former_there = _count(root, "SELECT count(to_regclass('events_default_former'))")
        return max(rows - copied(root), 0) + min(rows, 1) + is_former_there

    def check(root: Root) -> None:
        assert [_events_of(root, age, 7) for age in ages] == [_EVENTS_A_DAY] * 3
        assert _attached(root, ages) == 3
        assert _count(root, "SELECT count(*) FROM pg_class WHERE relname ~ '^events_.*_(next|former)$'") == 0

    return Work(lay_out=lay_out, left=left, check=check)


def _short_lived() -> Work:
    """Two workspaces with events of two days, of which one keeps its own for a day."""
    ages = range(5, 7)

    def lay_out(root: Root) -> None:
        for row, days in ((8, "1"), (9, "NULL")):
            root.execute(
                "INSERT INTO workspaces (id, public_id, name, retention_days) OVERRIDING SYSTEM VALUE"
                f" VALUES ({row}, 'ws_{row}', 'Acme', {days}) ON CONFLICT DO NOTHING"
            )
            root.execute(
                "INSERT INTO projects (id, public_id, workspace_id, name) OVERRIDING SYSTEM VALUE"
                f" VALUES ({row}, 'prj_{row}', {row}, 'shop') ON CONFLICT DO NOTHING"
            )
        for age in ages:
            _lay_out_day(root, age, 8, 9)

    def check(root: Root) -> None:
        assert [_events_of(root, age, 9) for age in ages] == [_EVENTS_A_DAY] * 2

    return Work(lay_out=lay_out, left=lambda root: sum(_events_of(root, age, 8) for age in ages), check=check)


def _old_days() -> Work:
    """Days past a year, and the last one that is kept."""
    ages = range(366, 370)

    def lay_out(root: Root) -> None:
        for age in (365, *ages):
            _lay_out_day(root, age, 7)

    def check(root: Root) -> None:
        assert _events_of(root, 365, 7) == _EVENTS_A_DAY

    return Work(lay_out=lay_out, left=lambda root: _attached(root, ages), check=check)


def _closed_days() -> Work:
    """Two days of the past without search indexes."""
    partitions = [_PARTITION.format(age=age) for age in (10, 11)]
    built = (
        "SELECT count(*) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE indisvalid AND"
        " relname LIKE 'ix\\_%' AND indrelid IN (" + ", ".join(f"to_regclass({it})" for it in partitions) + ")"
    )

    def lay_out(root: Root) -> None:
        for age in (10, 11):
            _lay_out_day(root, age, 7)

    def check(root: Root) -> None:
        assert [_events_of(root, age, 7) for age in (10, 11)] == [_EVENTS_A_DAY] * 2
        assert _count(root, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0

    wanted = 2 * len(INDEXES)
    return Work(lay_out=lay_out, left=lambda root: wanted - _count(root, built), check=check)


def _expired_keys() -> Work:
    """Keys that have expired, and one that has not."""
    keys = 300

    def lay_out(root: Root) -> None:
        for table in ("source_keys", "audit_entries"):
            root.execute(f"DELETE FROM {table} WHERE workspace_id = 6")
        for table, columns, values in (
            ("workspaces", "id, public_id, name", "6, 'ws_6', 'Acme'"),
            ("projects", "id, public_id, workspace_id, name", "6, 'prj_6', 6, 'shop'"),
            ("environments", "id, public_id, workspace_id, project_id, name", "6, 'env_6', 6, 6, 'production'"),
            (
                "sources",
                "id, public_id, workspace_id, project_id, environment_id, name, type",
                "6, 'src_6', 6, 6, 6, 'till', 'backend'",
            ),
        ):
            root.execute(
                f"INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({values}) ON CONFLICT DO NOTHING"
            )
        root.execute(
            "INSERT INTO source_keys (public_id, workspace_id, project_id, source_id, secret_hash, expires_at)"
            f" SELECT 'key_old' || n, 6, 6, 6, '', now() - n * interval '1 second' FROM generate_series(1, {keys}) AS n"
            " UNION ALL SELECT 'key_new', 6, 6, 6, '', now() + interval '1 day'"
        )

    def check(root: Root) -> None:
        entries = root.execute(
            "SELECT object_id FROM audit_entries WHERE workspace_id = 6 AND action = 'source_key.expire' ORDER BY 1"
        ).fetchall()
        assert entries == sorted((f"key_old{n}",) for n in range(1, keys + 1))

    left = "SELECT count(*) FROM source_keys WHERE workspace_id = 6 AND expired_at IS NULL AND expires_at <= now()"
    return Work(lay_out=lay_out, left=lambda root: _count(root, left), check=check)


WORK = {
    "canary": _no_work(),
    "fold_usage": _usage(),
    "purge_idempotency_records": _purge(
        "idempotency_records",
        "project_id, source_id, workspace_id, event_uid, response_status, response_body",
        "7, 7, 7, gen_random_uuid(), 201, ''",
    ),
    "purge_management_requests": _purge(
        "management_requests",
        "workspace_id, actor",
        "7, 'tok_x'",
        "INSERT INTO workspaces (id, public_id, name) OVERRIDING SYSTEM VALUE VALUES (7, 'ws_7', 'Acme')"
        " ON CONFLICT DO NOTHING",
    ),
    "make_event_partitions": _partitions(),
    "mark_expired_keys": _expired_keys(),
    "purge_event_ids": _event_ids(),
    "settle_stranded_events": _default_partition_rows(),
    "delete_expired_events": _short_lived(),
    "drop_old_partitions": _old_days(),
    "index_closed_partitions": _closed_days(),
}
