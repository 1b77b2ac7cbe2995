"""Celery's worker and beat in processes of their own, as an operator would start them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path

from celery import Celery

from app.config import Settings
from tests.support.live import environment_of
from tests.support.waiting import wait_until

QUEUE = "maintenance"
_TICK_SECONDS = 1.0
_FAST = "tests.support.fast_ticks"


@contextmanager
def worker(settings: Settings, checkout: Path, *, processes: int = 1) -> Iterator[subprocess.Popen[bytes]]:
    """The leader of its process group; gone with all its processes after the block."""
    arguments = ["worker", "--concurrency", str(processes), "--without-mingle", "--without-gossip", "-n"]
    with _running("wsgi", settings, checkout, *arguments, f"{time.monotonic_ns()}@%h") as process:
        yield process


@contextmanager
def beat(settings: Settings, checkout: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Sends each tick four times a second."""
    with _running(_FAST, settings, checkout, "beat", "--pidfile=") as process:
        yield process


def end_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for it and all its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tick_until(celery: Celery, names: list[str], condition: Callable[[], object]) -> None:
    """Send ticks as beat does: a task that ran a moment ago is not due yet."""
    sent_at = -inf

    def is_done() -> object:
        nonlocal sent_at
        if time.monotonic() > sent_at + _TICK_SECONDS:
            for name in names:
                celery.send_task(name, queue=QUEUE)
            sent_at = time.monotonic()
        return condition()

    wait_until(is_done, 60)


@contextmanager
def _running(module: str, settings: Settings, checkout: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", f"{module}.celery", *arguments],
        cwd=checkout,
        env=environment_of(settings),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        end_group(process)
