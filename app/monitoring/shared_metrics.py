"""What the processes of a machine count, kept in one folder, so that any of them can tell of all.

prometheus_client keeps a process's values in files that bear the process's name. With its pid for a name there would be
more of them with every process that was ever started, and whoever merged those of the dead might be killed half-way. So
a process takes a place instead: the lowest number whose lock nobody holds. It goes on counting where the place's last
holder stopped, so that counters never fall; there are as many files as there ever were processes at once; and a place
is free the moment its holder ends, however it ends, because the kernel lets go of the lock.

A folder without room costs the counts and nothing else (app/monitoring/reserved.py).
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

from app.concurrency.fork import reset_after_fork
from app.config import SettingsError, variable_of
from app.monitoring import reserved

_LIBRARY_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
_TURN: Final = "turn"


def share(path: str, environ: MutableMapping[str, str]) -> None:
    """Keep the metrics of this process and its children in the folder `path`. Call it before the metrics are imported.

    Without room there, it counts for itself alone. Raises SettingsError if the folder cannot be used.
    """
    # The library's files find the folder here and nowhere else.
    environ[_LIBRARY_VARIABLE] = path
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        values.ValueClass = reserved.value_class(_Place(Path(path)).number)
    except OSError as error:
        if reserved.is_lack_of_room(error):
            reserved.switch_off(error)
            return
        raise SettingsError(f"{variable_of('metrics_dir')} cannot be used: {error.strerror}: {path}") from error


class SharedMetrics:
    """Reads what all processes that share a folder count, as a collector of prometheus_client does."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def collect(self) -> Iterable[Metric]:
        """The metrics of all processes that ever shared the folder; what is open or in use, of those that live."""
        if not (self._path / _TURN).exists():
            return ()
        with _turn(self._path):
            for lock in self._path.glob("*.lock"):
                if (descriptor := _try_lock(lock)) is not None:
                    os.close(descriptor)
                    mark_process_dead(int(lock.stem), str(self._path))
        # A process that has just begun a file has written nothing into it for a moment.
        files = [str(file) for file in self._path.glob("*.db") if _bytes_of(file)]
        merged: Iterable[Metric] = MultiProcessCollector.merge(files)
        return merged


class _Place:
    """This process's place in the folder; a forked child takes one of its own, at the first thing that it counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: tuple[int, int] | None = None
        self._parents: int | None = None
        reset_after_fork(self, _Place._leave_to_parent)

    def number(self) -> int:
        """Called at every value that is written."""
        if self._held is None:
            self._held = self._take()
        return self._held[0]

    def _take(self) -> tuple[int, int]:
        """The place's number, and the descriptor whose lock holds it."""
        with _turn(self._path):
            for number in itertools.count():
                # Never the parent's, even if that one has ended: this process still has its files open as it left them.
                if number == self._parents:
                    continue
                if (descriptor := _try_lock(self._path / f"{number}.lock")) is not None:
                    # Its last holder's connections and queues are not ours.
                    mark_process_dead(number, str(self._path))
                    return number, descriptor
        raise AssertionError  # pragma: no cover - there is no last number

    def _leave_to_parent(self) -> None:
        # The lock belongs to both as long as both have it open: a parent that ends would seem to live on.
        if self._held is not None:
            self._parents, descriptor = self._held
            os.close(descriptor)
            self._held = None


def _try_lock(lock: Path) -> int | None:
    """A descriptor that holds `lock` until it is closed, or None if another one does. For whoever has the turn."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """One at a time takes or tries locks: who only looks whether a place is held would keep another one from it."""
    descriptor = os.open(path / _TURN, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _bytes_of(file: Path) -> int:
    with suppress(FileNotFoundError):
        return file.stat().st_size
    return 0
