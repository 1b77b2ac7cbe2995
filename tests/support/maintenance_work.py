"""Real work for each task of the schedule, and how it must look when it is done: nothing lost, nothing doubled.

A task that is added without an entry here fails tests/maintenance/test_killed.py.
"""

import gzip
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from psycopg.errors import UndefinedTable

from app.maintenance.search_indexes import INDEXES
from app.models.event_index import SEGMENT_EVENTS
from tests.support.counting_events import DIFFERENCES
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
            "SELECT source_key_id, sum(events)::int, sum(payload_bytes)::bigint FROM usage_hours WHERE project_id = 7"
            " GROUP BY 1 ORDER BY 1"
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
    """A day of the past with so many events of each project, in a partition of its own or in the default one.

    They are counted and, in a partition, marked, as if nothing had been left to do of that.
    """
    (name,) = root.execute("SELECT " + _PARTITION.format(age=age)).fetchone() or ("",)
    root.execute(f"DROP TABLE IF EXISTS {name}, {name}_next")
    begin = f"{_DAY.format(age=age)}::timestamp AT TIME ZONE 'UTC'"
    for table, column in (("events_default", "received_at"), ("event_hours", "hour"), ("event_segments", "ends_at")):
        root.execute(f"DELETE FROM {table} WHERE {column} >= {begin} AND {column} < {begin} + interval '1 day'")
    root.execute(f"DELETE FROM event_days WHERE day = {_DAY.format(age=age)}")
    if not in_default:
        root.execute(f"SELECT make_event_partitions({_DAY.format(age=age)}, 1)")
    for project in projects:
        root.execute(
            "INSERT INTO events (project_id, received_at, event_uid, workspace_id, environment_id, source_id,"
            " source_key_id, event_id, event_type, severity, occurred_at, payload)"
            f" SELECT {project}, {begin} + n * interval '1 second', gen_random_uuid(), {project}, 1, 1, 1, n::text,"
            f" 'a.b', 'info', now(), '{{}}' FROM generate_series(1, {_EVENTS_A_DAY}) AS n"
        )
    on_that_day = f"received_at >= {begin} AND received_at < {begin} + interval '1 day'"
    root.execute(
        "INSERT INTO event_hours SELECT project_id, date_trunc('hour', received_at, 'UTC'), source_key_id, event_type,"
        f" severity, workspace_id, environment_id, source_id, count(*) FROM events WHERE {on_that_day}"
        " GROUP BY 1, 2, 3, 4, 5, 6, 7, 8"
    )
    if not in_default:
        positions = "coalesce(min(position), 0), coalesce(max(position), 0)"
        root.execute(f"INSERT INTO event_days SELECT {_DAY.format(age=age)}, {positions} FROM {name}")


def _assert_counts_are_true(root: Root) -> None:
    assert root.execute(DIFFERENCES).fetchall() == []


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
        _assert_counts_are_true(root)
        assert _attached(root, ages) == 3
        assert _count(root, "SELECT count(*) FROM pg_class WHERE relname ~ '^events_.*_(next|former)$'") == 0

    return Work(lay_out=lay_out, left=left, check=check)


def _lay_out_project(root: Root, row: int, retention_days: str = "NULL") -> None:
    """A workspace with a project, both of that number."""
    root.execute(
        "INSERT INTO workspaces (id, public_id, name, retention_days) OVERRIDING SYSTEM VALUE"
        f" VALUES ({row}, 'ws_{row}', 'Acme', {retention_days}) ON CONFLICT DO NOTHING"
    )
    root.execute(
        "INSERT INTO projects (id, public_id, workspace_id, name) OVERRIDING SYSTEM VALUE"
        f" VALUES ({row}, 'prj_{row}', {row}, 'shop') ON CONFLICT DO NOTHING"
    )


def _lay_out_source(root: Root, row: int) -> None:
    """A workspace with a project, an environment, a source and a key, all of that number."""
    _lay_out_project(root, row)
    for table, columns, values in (
        ("environments", "public_id, workspace_id, project_id, name", f"'env_{row}', {row}, {row}, 'production'"),
        (
            "sources",
            "public_id, workspace_id, project_id, environment_id, name, type",
            f"'src_{row}', {row}, {row}, {row}, 'till', 'backend'",
        ),
        (
            "source_keys",
            "public_id, workspace_id, project_id, source_id, secret_hash",
            f"'key_{row}', {row}, {row}, {row}, ''",
        ),
    ):
        root.execute(
            f"INSERT INTO {table} (id, {columns}) OVERRIDING SYSTEM VALUE VALUES ({row}, {values})"
            " ON CONFLICT DO NOTHING"
        )


def _short_lived() -> Work:
    """Two workspaces with events of two days, of which one keeps its own for a day."""
    ages = range(5, 7)

    def lay_out(root: Root) -> None:
        for row, days in ((8, "1"), (9, "NULL")):
            _lay_out_project(root, row, days)
        for age in ages:
            _lay_out_day(root, age, 8, 9)

    def check(root: Root) -> None:
        assert [_events_of(root, age, 9) for age in ages] == [_EVENTS_A_DAY] * 2
        _assert_counts_are_true(root)

    return Work(lay_out=lay_out, left=lambda root: sum(_events_of(root, age, 8) for age in ages), check=check)


def _old_days() -> Work:
    """Days past a year, and the last one that is kept."""
    ages = range(366, 370)

    def lay_out(root: Root) -> None:
        for age in (365, *ages):
            _lay_out_day(root, age, 7)

    def check(root: Root) -> None:
        assert _events_of(root, 365, 7) == _EVENTS_A_DAY
        _assert_counts_are_true(root)
        assert _count(root, f"SELECT count(*) FROM event_days WHERE day < {_DAY.format(age=365)}") == 0

    return Work(lay_out=lay_out, left=lambda root: _attached(root, ages), check=check)


def _closed_days() -> Work:
    """Two days of the past without search indexes, of which one has wrong counts."""
    partitions = [_PARTITION.format(age=age) for age in (10, 11)]
    built = (
        "SELECT count(*) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE indisvalid AND"
        " relname LIKE 'ix\\_%' AND indrelid IN (" + ", ".join(f"to_regclass({it})" for it in partitions) + ")"
    )

    def lay_out(root: Root) -> None:
        for age in (10, 11):
            _lay_out_day(root, age, 7)
        begin = f"{_DAY.format(age=10)}::timestamp AT TIME ZONE 'UTC'"
        wrong = f"UPDATE event_hours SET events = events + 1 WHERE hour >= {begin}"
        root.execute(f"{wrong} AND hour < {begin} + interval '1 day'")

    def check(root: Root) -> None:
        assert [_events_of(root, age, 7) for age in (10, 11)] == [_EVENTS_A_DAY] * 2
        _assert_counts_are_true(root)
        assert _count(root, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0

    wanted = 2 * len(INDEXES)
    return Work(lay_out=lay_out, left=lambda root: wanted - _count(root, built), check=check)


def _unmarked_days() -> Work:
    """Two closed days of which nobody knows the positions."""
    ages = range(30, 32)
    days = ", ".join(_DAY.format(age=age) for age in ages)

    def lay_out(root: Root) -> None:
        for age in ages:
            _lay_out_day(root, age, 7, 9)
        root.execute(f"DELETE FROM event_days WHERE day IN ({days})")

    def left(root: Root) -> int:
        return len(ages) - _count(root, f"SELECT count(*) FROM event_days WHERE day IN ({days})")

    def check(root: Root) -> None:
        wrong = (
            "SELECT count(*) FROM event_days LEFT JOIN (SELECT (received_at AT TIME ZONE 'UTC')::date AS day,"
            " min(position) AS first, max(position) AS last FROM events GROUP BY 1) AS of_day USING (day)"
            f" WHERE day IN ({days}) AND (first_position, last_position) IS DISTINCT FROM (first, last)"
        )
        assert _count(root, wrong) == 0

    return Work(lay_out=lay_out, left=left, check=check)


def _unknown_days() -> Work:
    """Two open days of which the planner knows nothing; autovacuum leaves them alone."""
    ages = (-20, -21)
    names = ", ".join(_PARTITION.format(age=age) for age in ages)

    def lay_out(root: Root) -> None:
        for age in ages:
            _lay_out_day(root, age, 7, 9)
            (name,) = root.execute("SELECT " + _PARTITION.format(age=age)).fetchone() or ("",)
            root.execute(f"ALTER TABLE {name} SET (autovacuum_enabled = off)")

    def left(root: Root) -> int:
        return _count(root, f"SELECT count(*) FROM pg_class WHERE relname IN ({names}) AND reltuples < 0")

    def check(root: Root) -> None:
        pass

    return Work(lay_out=lay_out, left=left, check=check)


def _unsegmented() -> Work:
    """Two projects with a day's events for two segments each, behind a segment of all that was before."""
    projects, size = (4, 5), SEGMENT_EVENTS
    segments = f"FROM event_segments WHERE project_id IN {projects} AND events >= {size}"

    def lay_out(root: Root) -> None:
        root.execute(f"DELETE FROM event_segments WHERE project_id IN {projects}")
        # A run that had no more to do has considered all that is older than it.
        root.execute("UPDATE maintenance_tasks SET has_more = true WHERE name = 'build_event_segments'")
        for row in projects:
            _lay_out_project(root, row)
            begin = f"{_DAY.format(age=40)}::timestamp AT TIME ZONE 'UTC' - interval '1 day'"
            root.execute(
                f"INSERT INTO event_segments SELECT {row}, last_value, 1, {row}, {begin}, {begin}, 1, '{{}}', '{{}}',"
                " '{}', '{}', '{}', '{}', '{}', '{}' FROM event_positions"
            )
        _lay_out_day(root, 40, *projects)

    def left(root: Root) -> int:
        return len(projects) * _EVENTS_A_DAY // size - _count(root, f"SELECT count(*) {segments}")

    def check(root: Root) -> None:
        assert root.execute(f"SELECT sum(events)::int {segments} GROUP BY project_id").fetchall() == [
            (_EVENTS_A_DAY,)
        ] * len(projects)
        overlapping = (
            "SELECT count(*) FROM event_segments AS one JOIN event_segments AS other USING (project_id)"
            " WHERE one.last_position < other.last_position AND one.last_position >= other.first_position"
        )
        assert _count(root, overlapping) == 0

    return Work(lay_out=lay_out, left=left, check=check)


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


DOWNLOADS: Final = TemporaryDirectory(prefix="lariba-downloads-")
"""LARIBA_DOWNLOAD_DIR of those who do the work."""


_NO_NAMES = '{"sources": {}, "keys": {}, "environments": {}}'


def _exports() -> Work:
    """Exports of a whole day of two projects, in two forms each."""
    # Numbers that no key has which another work has laid out.
    rows, forms, age = (1_000_010, 1_000_011), ("ndjson", "csv"), 50
    of_rows = f"FROM exports WHERE workspace_id IN {rows}"

    def lay_out(root: Root) -> None:
        root.execute(f"DELETE {of_rows}")
        for row in rows:
            _lay_out_source(root, row)
        _lay_out_day(root, age, *rows)
        for table in ("events", "event_hours"):
            ours = "environment_id = project_id, source_id = project_id, source_key_id = project_id"
            root.execute(f"UPDATE {table} SET {ours} WHERE project_id IN {rows}")
        begin = f"{_DAY.format(age=age)}::timestamp AT TIME ZONE 'UTC'"
        for row, form in product(rows, forms):
            root.execute(
                "INSERT INTO exports (public_id, workspace_id, project_id, requested_by, names, format, begins_at,"
                f" ends_at) VALUES ('exp_{row}{form}', {row}, {row}, 'cli', '{_NO_NAMES}', '{form}',"
                f" {begin}, {begin} + interval '1 day')"
            )

    def left(root: Root) -> int:
        """Events that are not in their file, and the end of each export."""
        unwritten = f"{_EVENTS_A_DAY * len(rows) * len(forms)} - coalesce(sum(events), 0)"
        return _count(root, f"SELECT {unwritten} + count(*) FILTER (WHERE ended_at IS NULL) {of_rows}")

    def check(root: Root) -> None:
        noted = root.execute(f"SELECT public_id, format, sha256 {of_rows}").fetchall()
        assert len(noted) == len(rows) * len(forms)
        for public_id, form, sha256 in noted:
            packed = (Path(DOWNLOADS.name) / f"{public_id}.{form}.gz").read_bytes()
            assert hashlib.sha256(packed).hexdigest() == sha256
            lines = gzip.decompress(packed).splitlines()
            events = set(lines[1:] if form == "csv" else lines[:-1])
            assert len(events) == len(lines) - 1 == _EVENTS_A_DAY

    return Work(lay_out=lay_out, left=left, check=check)


def _export_files() -> Work:
    """Files of no export, and those of an export that is kept."""
    folder = Path(DOWNLOADS.name)

    def lay_out(root: Root) -> None:
        _lay_out_project(root, 12)
        root.execute(
            "INSERT INTO exports (public_id, workspace_id, project_id, requested_by, names, begins_at, ends_at, format,"
            " state, ended_at, expires_at) VALUES ('exp_kept', 12, 12, 'cli', '{}', now(), now(), 'csv', 'completed',"
            " now(), now() + interval '1 day') ON CONFLICT DO NOTHING"
        )
        (folder / "exp_kept.csv.gz").touch()
        for number in range(2_000):
            (folder / f"exp_old{number}.0.part").touch()

    def check(_: Root) -> None:
        assert (folder / "exp_kept.csv.gz").exists()

    return Work(lay_out=lay_out, left=lambda _: len(list(folder.glob("exp_old*"))), check=check)


def _ended_jobs() -> Work:
    """As many exports that ended long ago as such that ended just now."""

    def lay_out(root: Root) -> None:
        _lay_out_project(root, 13)
        root.execute("DELETE FROM exports WHERE project_id = 13")
        for name, days in (("old", 31), ("new", 29)):
            root.execute(
                "INSERT INTO exports (public_id, workspace_id, project_id, requested_by, names, begins_at, ends_at,"
                f" format, state, ended_at) SELECT 'exp_{name}' || n, 13, 13, 'cli', '{{}}', now(), now(), 'csv',"
                f" 'completed', now() - interval '{days} days' FROM generate_series(1, {_ROWS}) AS n"
            )

    def check(root: Root) -> None:
        assert _count(root, "SELECT count(*) FROM exports WHERE public_id LIKE 'exp_new%' AND project_id = 13") == _ROWS

    left = "SELECT count(*) FROM exports WHERE public_id LIKE 'exp_old%' AND project_id = 13"
    return Work(lay_out=lay_out, left=lambda root: _count(root, left), check=check)


def _replay() -> Work:
    """A day's events of project 3, to be stored again in project 2 of the same workspace."""
    rows = {
        "projects": "(2, 'prj_2', 3, 'again')",
        "environments": "(2, 'env_2', 3, 'production', 2), (3, 'env_3', 3, 'production', 3)",
        "sources": "(2, 'src_2', 3, 'again', 2, 2, 'backend'), (3, 'src_3', 3, 'till', 3, 3, 'backend')",
        "source_keys": "(9000002, 'key_2', 3, 'again', 2, 2, ''), (9000003, 'key_3', 3, 'till', 3, 3, '')",
    }
    columns = {
        "projects": "id, public_id, workspace_id, name",
        "environments": "id, public_id, workspace_id, name, project_id",
        "sources": "id, public_id, workspace_id, name, project_id, environment_id, type",
        "source_keys": "id, public_id, workspace_id, label, project_id, source_id, secret_hash",
    }
    begin = f"{_DAY.format(age=51)}::timestamp AT TIME ZONE 'UTC'"

    def forget(root: Root) -> None:
        """Of what is stored today other work drops the rows, and leaves the counts."""
        for table in ("events", "event_hours", "usage_outbox", "event_ledger"):
            root.execute(f"DELETE FROM {table} WHERE project_id = 2")

    def lay_out(root: Root) -> None:
        _lay_out_project(root, 3)
        for table, values in rows.items():
            insert = f"INSERT INTO {table} ({columns[table]}) OVERRIDING SYSTEM VALUE VALUES {values}"
            root.execute(f"{insert} ON CONFLICT DO NOTHING")
        root.execute("DELETE FROM replays")
        root.execute("UPDATE source_keys SET revoked_at = NULL WHERE id = 9000002")
        forget(root)
        _lay_out_day(root, 51, 3)
        known = "environment_id = 3, source_id = 3, source_key_id = 9000003"
        for table in ("events", "event_hours"):
            root.execute(f"UPDATE {table} SET {known} WHERE project_id = 3")
        root.execute(
            "INSERT INTO replays (public_id, workspace_id, project_id, requested_by, names, begins_at, ends_at,"
            " target_project_id, target_source_id, source_key_id, rate, last_position, count)"
            f" SELECT 'rep_3', 3, 3, 'cli', '{_NO_NAMES}', {begin}, {begin} + interval '1 day', 2, 2, 9000002, 1000,"
            f" last_value, {_EVENTS_A_DAY} FROM event_positions"
        )

    def check(root: Root) -> None:
        ended = root.execute("SELECT state, events, stored, duplicates, refused FROM replays").fetchall()
        assert ended == [("completed", _EVENTS_A_DAY, _EVENTS_A_DAY, 0, {})]
        stored = "SELECT count(*), count(DISTINCT event_id) FROM events WHERE project_id = 2"
        assert root.execute(stored).fetchall() == [(_EVENTS_A_DAY, _EVENTS_A_DAY)]
        _assert_counts_are_true(root)
        forget(root)

    left = (
        f"SELECT coalesce(sum({_EVENTS_A_DAY} - events + (state IN ('queued', 'running'))::int), 0)::int FROM replays"
    )
    return Work(lay_out=lay_out, left=lambda root: _count(root, left), check=check)


def _together(*works: Work) -> Work:
    """What one task has to do of several kinds."""

    def lay_out(root: Root) -> None:
        for each in works:
            each.lay_out(root)

    def check(root: Root) -> None:
        for each in works:
            each.check(root)

    return Work(lay_out=lay_out, left=lambda root: sum(each.left(root) for each in works), check=check)


WORK = {
    "run_jobs": _together(_exports(), _replay()),
    "purge_export_files": _export_files(),
    "purge_ended_jobs": _ended_jobs(),
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
    "build_event_segments": _unsegmented(),
    "analyze_grown_days": _unknown_days(),
    "mark_closed_days": _unmarked_days(),
    "make_event_partitions": _partitions(),
    "mark_expired_keys": _expired_keys(),
    "purge_event_ids": _event_ids(),
    "settle_stranded_events": _default_partition_rows(),
    "delete_expired_events": _short_lived(),
    "drop_old_partitions": _old_days(),
    "index_closed_partitions": _closed_days(),
}
