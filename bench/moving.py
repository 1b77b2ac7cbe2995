"""`python -m bench.moving`: how long a workspace waits that moves with so many events, and what its producers see.

Two cells, each with an embedded PostgreSQL of its own in a temporary folder (`--keep FOLDER` keeps the filled one for
the next run). The workspace has a month of `--events` events, those of today with an Idempotency-Key each. Four
producers send to it all the while, each event again until it is answered with a 2xx, where a 421 tells them to; the
move is the operator's command, a process of its own. Printed are what that says, how long the producers' answers took
in their cell and while it was changed, and what is found in the two cells afterwards.
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psycopg
from flask import Flask

from app.cells.operations import introduce
from app.config import Settings, variable_of
from app.context import EXTENSION, Context
from app.database.engine import TenantScope
from app.factory import create_app
from app.maintenance.usage import fold_usage
from app.models import SourceKey
from bench.databases import migrated_database
from bench.reading import loading

_CHECKOUT: Final = Path(__file__).parent.parent
_NAMES: Final = ("eu1", "us1")
_RUN: Final = secrets.token_hex(4)
"""Events of an earlier run in the same folder have other ids."""
_FOLD_SECONDS: Final = 1.0
_PRODUCERS: Final = 4
_PATH: Final = "/v1/events/ingest"
_WARM_SECONDS: Final = 5.0
_SOURCE: Final = "src_bench0_0"
_RECORDS: Final = """
    INSERT INTO idempotency_records (project_id, source_id, workspace_id, idempotency_key, fingerprint, event_uid,
        response_status, response_body, created_at, expires_at)
    SELECT project_id, source_id, workspace_id, event_id, sha256(event_id::bytea), event_uid, 201, '{}', received_at,
        received_at + interval '1 day'
    FROM events WHERE received_at >= date_trunc('day', now(), 'UTC')
"""
_KEY: Final = """
    SELECT source.id, source.workspace_id, source.project_id FROM sources AS source WHERE source.public_id = %s
"""
_STORED: Final = "SELECT event_id FROM events WHERE event_type = 'bench.moving'"
_COUNT: Final = "SELECT count(*) FROM events"


@dataclass(slots=True)
class _Producers:
    """They go where they are sent, and note what they were answered."""

    apps: dict[str, Flask]
    key: str
    rate: float
    """Events a second of each."""
    is_over: threading.Event = field(default_factory=threading.Event)
    acknowledged: list[str] = field(default_factory=list)
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in _NAMES})
    """From the first try of an event to its 2xx, by the cell that took it."""

    def run(self, number: int) -> None:
        clients = {name: app.test_client() for name, app in self.apps.items()}
        headers = {"X-API-Key": self.key}
        cell, event = _NAMES[0], 0
        while not self.is_over.is_set():
            event_id = f"{_RUN}-{number}-{event}"
            body = {"event_type": "bench.moving", "source_id": _SOURCE, "event_id": event_id, "payload": {"n": event}}
            began = time.monotonic()
            while True:
                response = clients[cell].post(
                    _PATH, data=json.dumps(body), content_type="application/json", headers=headers
                )
                self.answers[cell, response.status_code] += 1
                if response.status_code == 421:
                    cell = response.headers["Lariba-Cell"]
                elif response.status_code < 300:
                    break
            took = time.monotonic() - began
            self.acknowledged.append(event_id)
            self.seconds[cell].append(took)
            event += 1
            time.sleep(max(0.0, 1 / self.rate - took))


def main() -> None:
    """Fill, move and print."""
    arguments = _read_arguments()
    with ExitStack() as stack:
        folder = stack.enter_context(nullcontext(arguments.keep) if arguments.keep else tempfile.TemporaryDirectory())
        cells = [stack.enter_context(_cell(Path(folder), name)) for name in _NAMES]
        introduce(cells)
        apps = {cell.cell: create_app(cell) for cell in cells}
        _fill(apps[_NAMES[0]].extensions[EXTENSION], cells[0], arguments.events)
        producers = _Producers(apps, _make_key(apps[_NAMES[0]].extensions[EXTENSION], cells[0]), arguments.rate)
        threads = [threading.Thread(target=producers.run, args=(n,)) for n in range(_PRODUCERS)]
        threads += [threading.Thread(target=_fold, args=(app, producers)) for app in apps.values()]
        for thread in threads:
            thread.start()
        try:
            time.sleep(_WARM_SECONDS)
            began = time.monotonic()
            subprocess.run(
                [sys.executable, "-m", "flask", "--app", "wsgi", "workspace", "move", "ws_bench", "--to", _NAMES[1]],
                cwd=_CHECKOUT,
                env=_environment(cells),
                check=True,
            )
            print(f"moved in {time.monotonic() - began:.0f} s, with what is left deleted")
            time.sleep(_WARM_SECONDS)
        finally:
            producers.is_over.set()
            for thread in threads:
                thread.join()
        _print(producers, cells)


def _fold(app: Flask, producers: _Producers) -> None:
    """As the worker does, or all usage would wait to be copied."""
    while not producers.is_over.wait(_FOLD_SECONDS):
        fold_usage(app.extensions[EXTENSION].database)


def _print(producers: _Producers, cells: list[Settings]) -> None:
    for name in _NAMES:
        times = sorted(producers.seconds[name])
        p50, p99 = (times[int(len(times) * share)] * 1000 for share in (0.5, 0.99))
        print(f"taken by {name}: {len(times)} events, p50 {p50:.0f} ms, p99 {p99:.0f} ms, longest {times[-1]:.2f} s")
    print(
        "answers:",
        ", ".join(f"{cell} {status}: {count}" for (cell, status), count in sorted(producers.answers.items())),
    )
    stored: list[str] = []
    counts: list[int] = []
    for cell in cells:
        with psycopg.connect(cell.admin_database_url) as owner:
            stored += [event_id for (event_id,) in owner.execute(_STORED)]
            counts += owner.execute(_COUNT).fetchone() or ()
    lost = len(set(producers.acknowledged) - set(stored))
    print(f"of {len(producers.acknowledged)} acknowledged: {lost} lost, {len(stored) - len(set(stored))} doubled")
    print(f"events in {_NAMES[0]}: {counts[0]:,}, in {_NAMES[1]}: {counts[1]:,}")


@contextmanager
def _cell(folder: Path, name: str) -> Iterator[Settings]:
    (folder / name).mkdir(parents=True, exist_ok=True)
    with migrated_database(folder / name, name) as settings:
        yield settings


def _fill(context: Context, cell: Settings, events: int) -> None:
    if loading.is_loaded(cell):
        return
    began = time.monotonic()
    loading.load(context, cell, events=events, today_events=events // 10)
    with psycopg.connect(cell.admin_database_url) as owner:
        owner.execute(_RECORDS)
    with psycopg.connect(cell.admin_database_url, autocommit=True) as owner:
        owner.execute("VACUUM ANALYZE")
    print(f"filled in {time.monotonic() - began:.0f} s", flush=True)


def _make_key(context: Context, cell: Settings) -> str:
    with psycopg.connect(cell.admin_database_url) as owner:
        ((source, workspace, project),) = owner.execute(_KEY, [_SOURCE]).fetchall()
    minted = context.credentials.mint("sk")
    with context.database.transaction(TenantScope.ALL) as session:
        key = SourceKey(
            public_id=f"key_{minted.key_id}",
            workspace_id=workspace,
            project_id=project,
            source_id=source,
            label="moving",
            secret_hash=minted.secret_hash,
            secret_digest=minted.secret_digest,
        )
        session.add(key)
    return minted.text


def _environment(cells: list[Settings]) -> dict[str, str]:
    urls = {
        variable_of(name, cell.cell): str(getattr(cell, name))
        for cell in cells
        for name in ("database_url", "admin_database_url")
    }
    own = {name: value for name, value in os.environ.items() if not name.startswith("LARIBA_")}
    common = {
        "LARIBA_CELLS": ",".join(_NAMES),
        "LARIBA_SECRET_KEY": ",".join(cells[0].secret_key),
        "LARIBA_BROKER_URL": cells[0].broker_url,
    }
    return own | urls | common


def _read_arguments() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m bench.moving", description=__doc__, formatter_class=form)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--rate", type=float, default=50, help="events a second of each of the four producers (50)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    return parser.parse_args()


if __name__ == "__main__":
    main()
