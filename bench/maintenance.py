"""`python -m bench.maintenance`: the throughput of the maintenance tasks; one worker, nothing else running.

Starts an embedded PostgreSQL (fsync on) in a temporary folder. ROWS=1000000 sets the number of rows. Figures are rows
per second, comparable with the events per second of `make bench`.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from app.config import Settings
from app.database.engine import Database
from app.database.owner import Owner
from app.maintenance.export import read_export
from app.maintenance.purge import purge_expired_records, purge_old_event_ids
from app.maintenance.retention import drop_old_partitions
from app.maintenance.search_indexes import index_closed_partitions
from app.maintenance.task import TaskResult
from app.maintenance.usage import fold_usage
from bench.databases import migrated_database
from bench.rows import PAYLOAD, RECEIPT

_KEYS = 500
_NOW = datetime.now(UTC).replace(microsecond=0)
_THEN = _NOW - timedelta(days=100)

# Ids are random, as clients' are, and rows lie in the order of their arrival.
_OUTBOX_BY_MANY = """
    INSERT INTO usage_outbox (project_id, usage_uid, workspace_id, source_id, source_key_id, outcome, events,
        payload_bytes, received_at, addresses)
    SELECT 1, gen_random_uuid(), 1, n %% %(keys)s, n %% %(keys)s, 'stored', 1, 230, %(now)s, ARRAY['127.0.0.1']
    FROM generate_series(1, %(rows)s) AS n"""
_RECORDS = """
    INSERT INTO idempotency_records
    SELECT 1, n %% 500, 1, md5(n::text), sha256(n::text::bytea), gen_random_uuid(), 201, %(receipt)s, %(then)s,
        %(then)s + n * interval '1 millisecond'
    FROM generate_series(1, %(rows)s) AS n"""
_LEDGER = """
    INSERT INTO event_ledger
    SELECT 1, n %% 500, 1, md5(n::text), gen_random_uuid(), sha256(n::text::bytea),
        %(then)s + n * interval '1 millisecond'
    FROM generate_series(1, %(rows)s) AS n"""
_EVENTS = """
    INSERT INTO events
    SELECT 1, %(then)s + n * interval '1 millisecond', gen_random_uuid(), 1, 1, n %% 500, n %% 500, md5(n::text),
        'order.created', 'info', %(then)s, %(payload)s
    FROM generate_series(1, %(rows)s) AS n"""


@dataclass(frozen=True)
class Bench:
    """A database with nothing in it yet."""

    settings: Settings
    database: Database
    owner: Owner
    rows: int

    def fill(self, statement: str) -> None:
        """Insert the rows and vacuum, so that they lie as rows that are hours old do."""
        values = {"rows": self.rows, "keys": _KEYS, "now": _NOW, "then": _THEN, "receipt": RECEIPT, "payload": PAYLOAD}
        with psycopg.connect(self.settings.admin_database_url, autocommit=True) as connection:
            connection.execute(statement, values)
            connection.execute("VACUUM ANALYZE")

    def rate(self, work: Callable[[], TaskResult], rows: int | None = None) -> float:
        """Rows per second; `rows` replaces the count of a result that counts something else."""
        begin = time.perf_counter()
        done = work()
        return (rows or done.rows) / (time.perf_counter() - begin)


def rates(bench: Bench, folder: Path) -> Iterator[tuple[str, float]]:
    """Each measurement with its rows per second."""
    bench.fill(_OUTBOX_BY_MANY)
    yield f"fold outbox rows of {_KEYS} keys", bench.rate(lambda: fold_usage(bench.database))
    bench.fill(_RECORDS)
    yield "purge idempotency records", bench.rate(lambda: purge_expired_records(bench.database, now=_NOW))
    bench.fill(_LEDGER)
    yield "purge event ids", bench.rate(lambda: purge_old_event_ids(bench.database, now=_NOW, days=90))
    with bench.owner.connection() as connection:
        connection.execute("SELECT make_event_partitions(%s, 2)", [_THEN.date()])
    bench.fill(_EVENTS)
    yield "events in search indexes", bench.rate(lambda: index_closed_partitions(bench.owner, now=_NOW), bench.rows)
    dropping = bench.rate(
        lambda: drop_old_partitions(bench.owner, now=_NOW, days=90, export_folder=folder), rows=bench.rows
    )
    yield "events exported, verified and dropped", dropping
    files = list(folder.glob("*.zst"))
    size = sum(file.stat().st_size for file in files) / sum(read_export(file).rows for file in files)
    yield "bytes per event in the file", size


@contextmanager
def prepared(folder: Path, rows: int) -> Iterator[Bench]:
    """A migrated database on a server of its own."""
    with migrated_database(folder) as settings:
        database = Database(settings.database_url, pool_size=1)
        yield Bench(settings, database, Owner(settings.admin_database_url), rows)
        database.engine.dispose()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        exports = Path(folder) / "exports"
        exports.mkdir()
        with prepared(Path(folder), int(os.environ.get("ROWS", "1000000"))) as bench:
            for what, rate in rates(bench, exports):
                print(f"{what:<40} {rate:>12,.0f}")


if __name__ == "__main__":
    main()
