"""`python -m bench.reading`: how long queries take, over as many events as `--events` says.

Fills an embedded PostgreSQL in a temporary folder (`--keep FOLDER` keeps it for the next run), and asks the product's
own routes, in this process, without a network between: the 95th percentile over projects of all sizes, warm.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Final

import psycopg
from flask import Flask
from sqlalchemy import text

from app.config import Settings
from app.context import EXTENSION, Context
from app.database.engine import TenantScope
from app.factory import create_app
from app.models import ManagementToken
from bench.databases import migrated_database
from bench.reading import loading
from bench.reading.queries import QUERIES, Asked

_ROUNDS: Final = 4


def main() -> None:
    arguments = _read_arguments()
    with _folder(arguments.keep) as folder, migrated_database(folder) as limited:
        settings = replace(
            limited, management_token_requests_per_second=None, management_workspace_requests_per_second=None
        )
        app = create_app(settings)
        context = app.extensions[EXTENSION]
        begin = time.perf_counter()
        if not loading.is_loaded(settings):
            loading.load(context, settings, events=arguments.events, today_events=arguments.today)
        print(f"filled in {time.perf_counter() - begin:.0f} s", flush=True)
        _print_sizes(settings)
        measure(app, context, arguments.only)


def measure(app: Flask, context: Context, only: list[str] | None) -> None:
    """Print a line for each kind of query: its median, 95th percentile and slowest, in milliseconds."""
    client, headers = app.test_client(), {"Authorization": f"Bearer {_token(context)}"}
    asked = Asked(client, headers)
    print(f"{'':46}{'p50 ms':>9}{'p95 ms':>9}{'max ms':>9}")
    for name, paths in QUERIES.items():
        if only and not any(each in name for each in only):
            continue
        requests = list(paths(asked))
        times = []
        for n in range(_ROUNDS):
            for path in requests:
                begin = time.perf_counter()
                answer = client.get(path, headers=headers)
                if n:
                    times.append((time.perf_counter() - begin) * 1000)
                if answer.status_code not in (200, 404):
                    print(name, path, answer.json)
        times.sort()
        p95 = times[int(len(times) * 0.95)]
        print(f"{name:46}{statistics.median(times):9.1f}{p95:9.1f}{times[-1]:9.1f}", flush=True)


def _token(context: Context) -> str:
    minted = context.credentials.mint("mt")
    with context.database.transaction(TenantScope.ALL) as session:
        workspace = session.execute(text("SELECT id FROM workspaces WHERE public_id = 'ws_bench'")).scalar_one()
        session.add(
            ManagementToken(
                public_id=f"tok_{minted.key_id}",
                workspace_id=workspace,
                label="bench",
                secret_hash=minted.secret_hash,
                secret_digest=minted.secret_digest,
            )
        )
    return minted.text


def _print_sizes(settings: Settings) -> None:
    """Bytes per event, of the table, of its indexes, and of what reading keeps beside."""
    with psycopg.connect(settings.admin_database_url) as owner:
        ((events,),) = owner.execute("SELECT sum(events) FROM event_hours").fetchall()
        ((text_bytes,),) = owner.execute(
            "SELECT avg(octet_length(payload::text) + octet_length(event_id) + octet_length(event_type) + 150)"
            " FROM (SELECT * FROM events LIMIT 10000) AS sample"
        ).fetchall()
        rows = owner.execute("""
            SELECT regexp_replace(relname, '_[0-9]{8}', ''), sum(pg_relation_size(oid) + CASE
                WHEN reltoastrelid > 0 THEN pg_relation_size(reltoastrelid) ELSE 0 END)
            FROM pg_class WHERE relkind IN ('r', 'i') AND relname ~ 'event_(hours|segments)|events_[0-9]{8}'
            GROUP BY 1 ORDER BY 1""").fetchall()
    print(f"{events:,} events; an envelope is some {text_bytes:.0f} bytes of JSON")
    for name, size in rows:
        print(f"{name:46}{size / events:9.1f} bytes per event")


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    with nullcontext(keep) if keep else tempfile.TemporaryDirectory() as folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        yield Path(folder)


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench.reading", description=__doc__)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--today", type=int, default=2_000_000, help="of them, today")
    parser.add_argument("--only", nargs="+", help="parts of the queries' names")
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    return parser.parse_args()


if __name__ == "__main__":
    main()
