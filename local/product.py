"""The command lines of the product's programs for `make run`: web server, and Celery's worker with beat inside."""

import http.client
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGTERM

from local.program import Program

HOST = "127.0.0.1"
# Argon2 takes 19 MiB a run. By default glibc keeps such a block in each thread that has run it, 600 MiB after some
# hundred new keys; with a fixed threshold it frees them.
_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1048576"}
_CHECKOUT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    settings: Mapping[str, str]
    """The LARIBA_… variables of every process."""
    logs: Path

    def prepare(self, url: str, superuser_url: str, demo_env: Path) -> Program:
        """Migrates the database and writes `demo_env`, the settings and keys for a person; then it ends."""
        program = self._program("prepare", "-m", "local.prepare", superuser_url, str(demo_env))
        return replace(program, environment={**program.environment, "LARIBA_URL": url})

    def worker(self) -> Program:
        command = ("-m", "celery", "-A", "local.worker.celery", "worker", "--pool", "threads")
        # A single worker has no other one to mingle or gossip with, and starts a second sooner without.
        return self._program("worker", *command, "--concurrency", "3", "--without-mingle", "--without-gossip")

    def web(self, port: int, application: str = "wsgi:rsgi", interface: str = "rsgi") -> Program:
        """Another `application` is for bench/, which compares applications under the same server."""
        command = ["-m", "granian", "--interface", interface, "--loop", "uvloop", "--http", "1", "--no-ws"]
        command += ["--host", HOST, "--port", str(port), "--workers", "2", "--backlog", "2048"]
        command += ["--respawn-failed-workers", "--respawn-interval", "1", "--workers-kill-timeout", "3"]
        # --backpressure counts open connections, not requests: with a low one, idle connections of some clients would
        # keep others from connecting.
        return self._program("web", *command, "--backpressure", "2048", application)

    def _program(self, name: str, *arguments: str) -> Program:
        return Program(
            name=name,
            command=(sys.executable, *arguments),
            directory=_CHECKOUT,
            log=self.logs / f"{name}.log",
            environment={**os.environ, **self.settings, "PYTHONUNBUFFERED": "1", **_MEMORY},
            stop_signals=((SIGTERM, 15.0),),
        )


def is_ready(port: int) -> bool:
    """Whether /readyz answers 200."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
