"""Finds and ends the programs of a run whose supervisor and guard were both killed.

Every program of a run, and each of its children, holds one file of the run open, which the kernel can tell. A recorded
pid could belong to another program by now.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from signal import SIGTERM

from local import guard

# A parent ends its children; those that outlive it are ended in the next generation.
_GENERATIONS_MAX = 3


def holders(file: Path) -> dict[int, int]:
    """The other processes that hold `file` open, each with its group. Needs Linux's /proc."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) != os.getpid() and _holds(process, file):
            with contextlib.suppress(ProcessLookupError):
                found[int(process.name)] = os.getpgid(int(process.name))
    return found


def has_guard(pids: Iterable[int]) -> bool:
    """Whether a guard is among them, which ends the others."""
    return any(guard.NAME in _words(pid) for pid in pids)


def end(file: Path) -> None:
    """End the processes that hold `file` open, the youngest first: the product, the broker, the database."""
    for _ in range(_GENERATIONS_MAX):
        left = holders(file)
        for pid, group in sorted(left.items(), reverse=True):
            if _parent(pid) not in left:
                guard.end_group(group, SIGTERM)


def _holds(process: Path, file: Path) -> bool:
    # The files of other users' processes are hidden, and any process may be gone by now.
    with contextlib.suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                if descriptor.samefile(file):
                    return True
    return False


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    return 0


def _words(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    return []
