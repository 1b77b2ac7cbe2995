"""The real web server in processes of its own, as an operator would start it."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import psutil

from app.config import Settings, variable_of
from tests.support.waiting import wait_until


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class LiveServer:
    port: int
    process: subprocess.Popen[bytes]

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """One request on a connection of its own."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            return read(connection.getresponse())


def workers_of(server: LiveServer) -> list[psutil.Process]:
    """Its processes that serve, without one that ends while they are listed or that only waits to be reaped."""
    return [child for child in psutil.Process(server.process.pid).children() if _is_alive(child)]


def eldest_of_two_workers(server: LiveServer) -> psutil.Process:
    """To be killed: granian gives up when the one that it has started last ends within 5.5 seconds."""
    wait_until(lambda: len(workers_of(server)) == 2)
    return min(workers_of(server), key=psutil.Process.create_time)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def make_known(live: LiveServer, key: str, *, workers: int) -> None:
    """Have each process prove a source key before a test of something else: argon2 may take a second beside others.

    The kernel chooses the process for each connection; that one of `workers` is never chosen does not happen.
    """
    for _ in range(16 * workers):
        wait_until(lambda: live.request("POST", "/v1/events/ingest", b"", {"X-API-Key": key}).status in (400, 415))


def read(response: HTTPResponse) -> Answer:
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def environment_of(settings: Settings, *others: Settings) -> dict[str, str]:
    """The process environment that makes `settings`, and beside it those of other cells."""
    of_others = {
        variable_of(name, other.cell): str(getattr(other, name))
        for other in others
        for name in ("database_url", "admin_database_url")
    }
    return of_others | {
        **{name: value for name, value in os.environ.items() if not name.startswith("LARIBA_")},
        "LARIBA_DATABASE_URL": settings.database_url,
        "LARIBA_ADMIN_DATABASE_URL": settings.admin_database_url,
        "LARIBA_BROKER_URL": settings.broker_url,
        "LARIBA_READ_DATABASE_URL": settings.read_database_url,
        "LARIBA_SECRET_KEY": ",".join(settings.secret_key),
        "LARIBA_LOG_LEVEL": "WARNING",
        "LARIBA_DATABASE_POOL_SIZE": str(settings.database_pool_size),
        "LARIBA_MANAGEMENT_TOKEN_REQUESTS_PER_SECOND": _limit(settings.management_token_requests_per_second),
        "LARIBA_MANAGEMENT_WORKSPACE_REQUESTS_PER_SECOND": _limit(settings.management_workspace_requests_per_second),
        "LARIBA_DOWNLOAD_DIR": settings.download_dir,
        "LARIBA_METRICS_DIR": settings.metrics_dir,
        "LARIBA_GRANIAN_ADAPTER": settings.granian_adapter,
        "LARIBA_SERVER_THREADS": str(settings.server_threads),
        "LARIBA_TRUSTED_PROXIES": ",".join(settings.trusted_proxies),
        "LARIBA_BODY_SECONDS": str(settings.body_seconds),
        "LARIBA_STORAGE_DEADLINE_SECONDS": str(settings.storage_deadline_seconds),
        "LARIBA_IDEMPOTENCY_WAIT_SECONDS": str(settings.idempotency_wait_seconds),
        "LARIBA_CELLS": ",".join(each.cell for each in (settings, *others)),
    }


def _limit(rate: int | None) -> str:
    return "off" if rate is None else str(rate)


@contextmanager
def live_server(
    settings: Settings,
    checkout: Path,
    *,
    workers: int = 1,
    adapter: bool = True,
    http: str = "1",
    others: Sequence[Settings] = (),
) -> Iterator[LiveServer]:
    """granian with `workers` processes, ready to serve; gone with all its processes after the block.

    They serve the cells of `others` too.
    """
    port = free_port()
    interface = ["--interface", "rsgi", "--loop", "uvloop"] if adapter else ["--interface", "wsgi"]
    command = ["-m", "granian", *interface, "--http", http, "--no-ws"]
    sizes = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers), "--log-level", "error"]
    command += ["--respawn-failed-workers", "--respawn-interval", "0.5", "--workers-kill-timeout", "5"]
    command += [*sizes, "wsgi:rsgi" if adapter else "wsgi:app"]
    with _serving(port, command, environment_of(settings, *others), checkout) as server:
        yield server


@contextmanager
def gunicorn_server(
    settings: Settings, checkout: Path, *, threads: int = 8, others: Sequence[Settings] = ()
) -> Iterator[LiveServer]:
    """Two processes with threads, forked from one that has loaded the application already."""
    port = free_port()
    command = ["-m", "gunicorn", "--preload", "--workers", "2", "--threads", str(threads)]
    command += ["--bind", f"127.0.0.1:{port}", "--log-level", "error", "wsgi:app"]
    with _serving(port, command, environment_of(settings, *others), checkout) as server:
        yield server


@contextmanager
def _serving(port: int, command: list[str], environment: dict[str, str], checkout: Path) -> Iterator[LiveServer]:
    process = subprocess.Popen([sys.executable, *command], cwd=checkout, env=environment, start_new_session=True)
    server = LiveServer(port, process)
    try:
        wait_until(lambda: is_ready(server))
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_ready(server: LiveServer) -> bool:
    assert server.process.poll() is None, "the server ended"
    try:
        return server.request("GET", "/readyz").status == 200
    except OSError:
        return False


def free_port() -> int:
    """Below those that the kernel gives to outgoing connections: one of these could take it before the server does.

    On a busy machine a server needs seconds to start, in which other tests make hundreds of connections.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
