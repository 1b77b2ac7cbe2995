"""`python -m bench.reading.beside`: followers, exports, and what ingest has left beside them, on a running product.

Starts the product as `make run` does. 1. How long after its commit do `--followers` of 50 projects hear of an event, at
`--rate` events a second? Each event has to reach each follower of its project once. 2. Ingest alone and ingest beside
these followers and ten searches a second, in turns. 3. How many events a second one export streams. The loads run on
the same machine and share its cores.
"""

import argparse
import asyncio
import http.client
import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from sqlalchemy.orm import Session

from app.config import Settings
from app.credentials.verification import Credentials
from app.database.engine import Database, TenantScope
from app.identifiers import new_public_id
from app.management.common.operators import Role
from app.management.keys.domain import NewKey, add_key
from app.management.projects.domain import NewProject, add_project
from app.management.sources.domain import NewSource, add_source
from app.management.tokens.domain import NewToken, add_token
from app.management.workspace.domain import add_workspace
from app.models import Environment, SourceType
from bench import machine, wrk
from bench.installation import Installation, installation
from bench.reading.followers import Followed, Heard, follow, send_steadily
from bench.senders import OneSecret, demo_sender, lift_limits
from bench.victim import Tenant

_PROJECTS: Final = 50
_WORKSPACES: Final = 25
_SEARCHES_PER_SECOND: Final = 10
_QUERIES: Final = ("", "severity>=error", "type:payment.*", "payload.n>3", "nowhere", "payload.order_id:none")
_SETTLE_SECONDS: Final = 5.0


def main() -> None:
    """Measure and print."""
    arguments = _read_arguments()
    wrk.check()
    with (
        tempfile.TemporaryDirectory(prefix="lariba-beside-") as name,
        installation(Path(name).resolve()) as product,
    ):
        sender = demo_sender(product, Path(name))
        tenant = Tenant(product.port, "", "", product.variables["LARIBA_MANAGEMENT_TOKEN"])
        followed = _make_followed(product)
        lift_limits(product)
        asyncio.run(_latency(product, followed, arguments))
        _shares(product, tenant, followed, sender, arguments)
        _export(product, tenant)


async def _latency(product: Installation, followed: list[Followed], asked: argparse.Namespace) -> None:
    heard = Heard()
    ready = [asyncio.Event() for _ in range(asked.followers)]
    tasks = [
        asyncio.create_task(follow(product.port, followed[n % _PROJECTS], heard, ready[n]))
        for n in range(asked.followers)
    ]
    await asyncio.gather(*(each.wait() for each in ready))
    stored = await send_steadily(product.port, followed, asked.rate, asked.seconds)
    expected = stored * asked.followers // _PROJECTS
    await asyncio.sleep(_SETTLE_SECONDS)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    times = sorted(heard.milliseconds)
    p50, p95, p99 = (times[int(len(times) * part)] for part in (0.5, 0.95, 0.99))
    print(f"{asked.followers} followers, {stored / asked.seconds:,.0f} events/s: {len(times):,} of {expected:,} heard;")
    print(f"commit to follower p50 {p50:.0f}, p95 {p95:.0f}, p99 {p99:.0f}, max {times[-1]:.0f} ms;", flush=True)
    print(f"{heard.refused} refused", flush=True)


def _shares(
    product: Installation, tenant: Tenant, followed: list[Followed], sender: Path, asked: argparse.Namespace
) -> None:
    load = wrk.Load(script="events", connections=64, senders=sender)
    wrk.send(product.url, load, 3)
    shares = []
    for _ in range(asked.pairs):
        machine.wait_until_idle(10.0)
        alone = wrk.send(product.url, load, asked.seconds)
        machine.wait_until_idle(10.0)
        with _readers(product, tenant, followed, asked.followers) as searches:
            beside = wrk.send(product.url, load, asked.seconds)
        shares.append((beside.accepted / beside.seconds) / (alone.accepted / alone.seconds))
        times = sorted(searches)
        print(
            f"ingest alone {alone.accepted / alone.seconds:,.0f}/s, beside {beside.accepted / beside.seconds:,.0f}/s;"
            f" {len(times)} searches, p95 {times[int(len(times) * 0.95)]:.0f} ms",
            flush=True,
        )
    print(f"share {statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})", flush=True)


@contextmanager
def _readers(product: Installation, tenant: Tenant, followed: list[Followed], followers: int) -> Iterator[list[float]]:
    """Followers in a process of their own, and ten searches a second of the demo project's events."""
    is_ready = multiprocessing.Event()
    process = multiprocessing.Process(target=_follow_all, args=(product.port, followed, followers, is_ready))
    process.start()
    is_ready.wait(60)
    over, milliseconds = threading.Event(), list[float]()
    searching = threading.Thread(target=_search, args=(product, tenant, over, milliseconds))
    searching.start()
    try:
        yield milliseconds
    finally:
        over.set()
        searching.join()
        process.terminate()
        process.join()


def _follow_all(port: int, followed: list[Followed], followers: int, is_ready: Any) -> None:
    async def all_of_them() -> None:
        ready = [asyncio.Event() for _ in range(followers)]
        tasks = [follow(port, followed[n % len(followed)], Heard(), ready[n]) for n in range(followers)]
        running = [asyncio.create_task(task) for task in tasks]
        await asyncio.gather(*(each.wait() for each in ready))
        is_ready.set()
        await asyncio.gather(*running)

    asyncio.run(all_of_them())


def _search(product: Installation, tenant: Tenant, over: threading.Event, milliseconds: list[float]) -> None:
    headers = {"Authorization": f"Bearer {tenant.token}"}
    project = product.variables["LARIBA_PROJECT_ID"]
    n, due = 0, time.monotonic()
    while not over.wait(max(0.0, due - time.monotonic())):
        query = urlencode({"project_id": project, "q": _QUERIES[n % len(_QUERIES)]})
        began = time.perf_counter()
        status, _ = tenant.request("GET", f"/v1/events?{query}", None, headers)
        if status == 200:
            milliseconds.append((time.perf_counter() - began) * 1000)
        n, due = n + 1, due + 1 / _SEARCHES_PER_SECOND


def _export(product: Installation, tenant: Tenant) -> None:
    machine.wait_until_idle(10.0)
    query = urlencode({"project_id": product.variables["LARIBA_PROJECT_ID"]})
    connection = http.client.HTTPConnection("127.0.0.1", product.port, timeout=600)
    began = time.perf_counter()
    connection.request("GET", f"/v1/events/export?{query}", headers={"Authorization": f"Bearer {tenant.token}"})
    answer = connection.getresponse()
    lines, size = 0, 0
    while part := answer.read1(1 << 20):
        lines, size = lines + part.count(b"\n"), size + len(part)
    seconds = time.perf_counter() - began
    print(f"export: {lines - 1:,} events, {size / 1e6:,.0f} MB, {(lines - 1) / seconds:,.0f} events/s", flush=True)


def _make_followed(product: Installation) -> list[Followed]:
    """Projects of some workspaces, each with a source: one workspace alone would reach the rate that is for it."""
    variables = {**product.variables, "LARIBA_BROKER_URL": "memory://", "LARIBA_SECRET_KEY": product.secret_key()}
    settings = Settings.from_environment(variables)
    database = Database(settings.database_url, pool_size=1, application_name="lariba-bench")
    keys, tokens = (OneSecret(settings.secret_key, argon2_runs_max=settings.argon2_runs_max) for _ in range(2))
    try:
        with database.transaction(TenantScope.ALL, deadline_seconds=120) as session:
            return [each for _ in range(_WORKSPACES) for each in _made(session, keys, tokens, _PROJECTS // _WORKSPACES)]
    finally:
        database.engine.dispose()


def _made(session: Session, keys: Credentials, tokens: Credentials, projects: int) -> Iterator[Followed]:
    """So many projects of a new workspace, each with a token of its own."""
    workspace, operator = add_workspace(session, "Followed")
    for n in range(projects):
        project, _ = add_project(session, operator, NewProject(name=f"Project {n}"))
        query = Environment.within(workspace.id).where(Environment.project_id == project.id)
        environment = session.scalars(query.order_by(Environment.id).limit(1)).one()
        new = NewSource(name="sender", type=SourceType.BACKEND)
        source = add_source(session, operator, environment, new, new_public_id("src"))
        key = add_key(session, keys.mint("sk"), operator, source, NewKey())
        token = add_token(session, tokens.mint("mt"), operator, NewToken(role=Role.AUDITOR))
        yield Followed(project.public_id, source.public_id, key.key, token.token)


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench.reading.beside", description=__doc__)
    parser.add_argument("--followers", type=int, default=500)
    parser.add_argument("--rate", type=float, default=1_000.0, help="events a second")
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--pairs", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
