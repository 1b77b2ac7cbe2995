"""The product's own programs as `make run` starts them: Celery's worker with beat inside, web server.

Knows their command lines and nothing of what they do.
"""

import http.client
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGTERM

from local.program import Program

HOST = "127.0.0.1"
# Argon2 takes 19 MiB a run. Left to itself, glibc keeps such a block in each thread that ever ran one, 600 MiB after
# some hundred new keys; with a fixed threshold it gives them back.
_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1048576"}
_CHECKOUT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    settings: Mapping[str, str]
    """The LARIBA_… variables of every process."""
    logs: Path

    def prepare(self, url: str, superuser_url: str, demo_env: Path) -> Program:
        """Ends when the data are in shape, and `demo_env` holds all that a person needs."""
        program = self._program("prepare", "-m", "local.prepare", superuser_url, str(demo_env))
        return replace(program, environment={**program.environment, "LARIBA_URL": url})

    def worker(self) -> Program:
        command = ("-m", "celery", "-A", "local.worker.celery", "worker", "--pool", "threads")
        # One worker has no other one to mingle or gossip with, and is there a second sooner.
        return self._program("worker", *command, "--concurrency", "2", "--without-mingle", "--without-gossip")

    def web(self, port: int, application: str = "wsgi:rsgi", interface: str = "rsgi") -> Program:
        """Another `application` is for bench/, which compares what the same server makes of it."""
        command = ["-m", "granian", "--interface", interface, "--loop", "uvloop", "--http", "1", "--no-ws"]
        command += ["--host", HOST, "--port", str(port), "--workers", "2", "--backlog", "2048"]
        command += ["--respawn-failed-workers", "--respawn-interval", "1", "--workers-kill-timeout", "3"]
        # Granian's backpressure counts open connections, idle ones too, not requests: with a low one, clients
        # that keep their connections open would shut the others out.
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
    """Whether the web server says that traffic may come."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
