"""Starts the product as `make run` does, in a folder of its own, and the bare Flask view by the same command line."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from local import demo_env
from local.product import HOST, Product, is_ready
from local.var_dir import VarDir

_CHECKOUT = Path(__file__).resolve().parents[1]
_READY_SECONDS = 180.0
_STOP_SECONDS = 90.0

# Variables of the product that a benchmark needs to be other than `make run` has them (rate limits are lifted in the
# tables instead: bench/senders.py). `python -m local` takes no LARIBA_… variable from outside at present: what
# is named here has to be let through there (local/__main__.py) before it means anything.
SETTINGS: dict[str, str] = {}


class InstallationError(Exception):
    """The product did not start; the message says why."""


@dataclass(frozen=True, slots=True)
class Installation:
    """A running product: its addresses, its demo credentials, its processes."""

    folder: Path
    """The product's VAR_DIR."""
    log: Path
    port: int
    process: subprocess.Popen[bytes]
    variables: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def admin_database_url(self) -> str:
        return self.variables["LARIBA_ADMIN_DATABASE_URL"]

    def secret_key(self) -> str:
        return VarDir(self.folder).secret_key()

    def roots(self) -> dict[str, psutil.Process]:
        """The leader of each kind of process: web, worker, postgres …"""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                found[_kind(child)] = child
        return found

    def restart_web(self) -> None:
        """End the web server; the supervisor of `make run` starts a new one."""
        old = self.roots()["web"]
        old.terminate()

        def is_back() -> bool:
            web = self.roots().get("web")
            return web is not None and web.pid != old.pid and is_ready(self.port)

        _wait_until(is_back, self.process, self.log)


@contextmanager
def installation(folder: Path, checkout: Path = _CHECKOUT) -> Iterator[Installation]:
    """The product of `checkout`, ready to serve; stopped with everything it started after the block."""
    port = free_port()
    log = folder / "run.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "local" if (checkout / "local").is_dir() else "app.embedded"],
            cwd=checkout,
            env={**os.environ, **SETTINGS, "PORT": str(port), "VAR_DIR": str(folder / "var")},
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for the benchmark, which then stops the product in order.
            start_new_session=True,
        )
    var_dir = VarDir(folder / "var")
    try:
        _wait_until(lambda: var_dir.demo_env.exists() and is_ready(port), process, log)
        yield Installation(var_dir.path, log, port, process, demo_env.read(var_dir.demo_env))
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        process.kill()
        process.wait()


@contextmanager
def bare_flask(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The bare view (url, leader) under exactly the web server of `make run`."""
    port = free_port()
    program = Product(settings={}, logs=folder).web(port, "bench.bare_flask:app", "wsgi")
    with program.log.open("wb") as output:
        process = subprocess.Popen(
            program.command,
            cwd=program.directory,
            env=dict(program.environment),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until(lambda: _listens(port), process, program.log)
        yield f"http://{HOST}:{port}", psutil.Process(process.pid)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _kind(process: psutil.Process) -> str:
    words = " ".join(process.cmdline())
    kinds = {"granian": "web", " worker": "worker", " beat": "beat", "postgres": "postgres", "redis": "redis"}
    for word, kind in {**kinds, "valkey": "redis"}.items():
        if word in words:
            return kind
    return "other"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not condition():
        if process.poll() is not None:
            raise InstallationError(f"it ended: {' '.join(log.read_text(errors='replace').split())[-500:]}")
        if time.monotonic() > deadline:
            raise InstallationError(f"it was not ready within {_READY_SECONDS:.0f} s")
        time.sleep(0.1)
