"""CPU and memory by kind of process, the share of other processes, and a description of the machine."""

import contextlib
import os
import platform
import resource
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import psycopg

from bench import wrk

# Above this share of the machine, other processes have affected the figure.
NOISY_PERCENT = 8.0
_IDLE_PERCENT = 8.0
_SAMPLE_SECONDS = 0.5
_MIB = 2**20
_FLUSHES = 200


@dataclass(frozen=True, slots=True)
class Use:
    """What one run took."""

    cpu_seconds: Mapping[str, float]
    """User and system time by kind; `client` is the load generator."""
    rss_mib: Mapping[str, float]
    """The largest process of each kind, at its largest."""
    others_percent: float
    """CPU of processes that are not ours, of all cores."""

    @property
    def is_noisy(self) -> bool:
        return self.others_percent > NOISY_PERCENT


@dataclass(slots=True)
class Meter:
    """`with Meter(roots) as meter:` then `meter.use`. A root stands for itself and all its descendants."""

    roots: Mapping[str, psutil.Process]
    rss: dict[str, float] = field(default_factory=dict)
    _use: Use | None = None
    _begin: dict[str, float] = field(default_factory=dict)
    _machine: tuple[float, float] = (0.0, 0.0)
    _stop: threading.Event = field(default_factory=threading.Event)
    _sampler: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._begin, self._machine = self._cpu(), _machine_cpu()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        taken = {name: max(0.0, seconds - self._begin[name]) for name, seconds in self._cpu().items()}
        busy, total = (now - then for now, then in zip(_machine_cpu(), self._machine, strict=True))
        others = max(0.0, busy - sum(taken.values()))
        self._stop.set()
        if self._sampler:
            self._sampler.join()
        taken["client"] += taken.pop("bench")
        self._use = Use(taken, dict(self.rss), 100 * others / total if total else 0.0)

    @property
    def use(self) -> Use:
        """What was taken between the beginning and the end of the block."""
        if self._use is None:
            raise ValueError("the block has not ended")
        return self._use

    def _cpu(self) -> dict[str, float]:
        ours, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            **{name: sum(_cpu_of(process) for process in family(root)) for name, root in self.roots.items()},
            "client": children.ru_utime + children.ru_stime,
            "bench": ours.ru_utime + ours.ru_stime,
        }

    def _sample(self) -> None:
        while True:
            for name, root in self.roots.items():
                self.rss[name] = max(self.rss.get(name, 0.0), largest_rss_mib(root))
            if self._stop.wait(_SAMPLE_SECONDS):
                return


def family(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def largest_rss_mib(root: psutil.Process) -> float:
    sizes = [0.0]
    for process in family(root):
        with contextlib.suppress(psutil.NoSuchProcess):
            sizes.append(process.memory_info().rss / _MIB)
    return max(sizes)


def wait_until_idle(seconds: float) -> None:
    """Until the machine has little to do, at most `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and psutil.cpu_percent(interval=1.0) > _IDLE_PERCENT:
        pass


def describe(folder: Path, database_url: str) -> dict[str, str]:
    """What the figures were measured on."""
    with psycopg.connect(database_url) as connection:
        server, fsync, commit = connection.execute(
            "SELECT current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')"
        ).fetchone() or ("?", "?", "?")
    return {
        "cores": f"{os.cpu_count()} ({_processor()})",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "postgresql": f"{server}, fsync {fsync}, synchronous_commit {commit}",
        "disk": f"{_file_system(folder)}, {_flush_microseconds(folder):.0f} µs to flush 8 kB",
        "client": wrk.version(),
    }


def _cpu_of(process: psutil.Process) -> float:
    # The times of dead processes are in the children's times of the process that has waited for them.
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0


def _machine_cpu() -> tuple[float, float]:
    """(busy, total) seconds of all cores; what the hypervisor gave to another machine counts as busy."""
    times = psutil.cpu_times()
    spare = times.idle + getattr(times, "iowait", 0.0)
    # On Linux, `user` holds the guests' time too.
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total - spare, total


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file_system(folder: Path) -> str:
    mounts = [mount for mount in psutil.disk_partitions(all=True) if folder.is_relative_to(mount.mountpoint)]
    return max(mounts, key=lambda mount: len(mount.mountpoint)).fstype if mounts else "unknown"


def _flush_microseconds(folder: Path) -> float:
    """The least time of a commit."""
    path = folder / "flush"
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    flush = getattr(os, "fdatasync", os.fsync)
    try:
        os.write(file, bytes(8192))
        flush(file)
        begin = time.perf_counter()
        for _ in range(_FLUSHES):
            os.pwrite(file, os.urandom(8192), 0)
            flush(file)
        return (time.perf_counter() - begin) / _FLUSHES * 1e6
    finally:
        os.close(file)
        path.unlink()
