"""Metrics that the processes of a machine share in one folder, so that each of them can expose the counts of all.

prometheus_client names the files of a process after its pid, so that every restart leaves files. Here a process takes a
slot instead: the lowest number whose lock is free. It goes on counting where the slot's last holder stopped, so that
counters never fall and files stay few. The kernel releases the lock however a process ends.

A folder on a full disk costs the counts and nothing else (app/monitoring/reserved.py).
"""

import fcntl
import itertools
import os
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from prometheus_client import values
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from app.concurrency.fork import reset_after_fork
from app.config import SettingsError, variable_of
from app.monitoring import reserved

_LIBRARY_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
_MUTEX: Final = "mutex"


def share(path: str, environ: MutableMapping[str, str]) -> None:
    """Keep the metrics of this process and its children in the folder `path`. Call it before the metrics are imported.

    On a full disk the process keeps its metrics to itself. Raises SettingsError if the folder cannot be used.
    """
    # The library reads the folder here only.
    environ[_LIBRARY_VARIABLE] = path
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        values.ValueClass = reserved.value_class(MetricsSlot(Path(path)).number)
    except OSError as error:
        if reserved.is_disk_full(error):
            reserved.switch_off(error)
            return
        raise SettingsError(f"{variable_of('metrics_dir')} cannot be used: {error.strerror}: {path}") from error


class SharedMetrics(Collector):
    """The metrics of all processes that share a folder."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def collect(self) -> Iterable[Metric]:
        """Counters and histograms of all processes that ever shared the folder; gauges of those that live."""
        if not (self._path / _MUTEX).exists():
            return ()
        with _mutex(self._path):
            for lock in self._path.glob("*.lock"):
                if (descriptor := _try_lock(lock)) is not None:
                    os.close(descriptor)
                    mark_process_dead(int(lock.stem), str(self._path))
        # A file that a process has just created is empty for a moment.
        files = [str(file) for file in self._path.glob("*.db") if _bytes_of(file)]
        merged: Iterable[Metric] = MultiProcessCollector.merge(files)
        return merged


class MetricsSlot:
    """This process's slot in the folder, taken at the first count; a forked child takes one of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: tuple[int, int] | None = None
        self._parents: int | None = None
        reset_after_fork(self, MetricsSlot._reset)

    def number(self) -> int:
        """The library calls this at every value that is written."""
        if self._held is None:
            self._held = self._take()
        return self._held[0]

    def _take(self) -> tuple[int, int]:
        """The number of the slot, and the descriptor that holds its lock."""
        with _mutex(self._path):
            for number in itertools.count():
                # Not the parent's, even if the parent has ended: this process has its files open in their old state.
                if number == self._parents:
                    continue
                if (descriptor := _try_lock(self._path / f"{number}.lock")) is not None:
                    # Remove the gauges of its last holder.
                    mark_process_dead(number, str(self._path))
                    return number, descriptor
        raise AssertionError  # pragma: no cover - there is no last number

    def _reset(self) -> None:
        # Parent and child share the lock while both have it open, and a parent that ends would seem to live on.
        if self._held is not None:
            self._parents, descriptor = self._held
            os.close(descriptor)
            self._held = None


def _try_lock(lock: Path) -> int | None:
    """A descriptor that holds `lock` until it is closed; None if another process holds it. Call it within _mutex."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def _mutex(path: Path) -> Iterator[None]:
    """One process at a time tries locks: a scrape holds each free one for a moment, and would hide it from a taker."""
    descriptor = os.open(path / _MUTEX, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _bytes_of(file: Path) -> int:
    with suppress(FileNotFoundError):
        return file.stat().st_size
    return 0
