"""Finds and ends what a run has left whose supervisor and guard were both killed.

Every program of a run, and whatever it starts, holds one file of the run open. The kernel knows who does; a process
number that was written down could belong to another program by now.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from signal import SIGTERM

from local import guard

# A parent's children are its own to end; those that outlive it come next.
_GENERATIONS_MAX = 3


def holders(file: Path) -> dict[int, int]:
    """The processes that hold `file` open, but for this one, each with its group. Needs Linux's /proc."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) != os.getpid() and _holds(process, file):
            with contextlib.suppress(ProcessLookupError):
                found[int(process.name)] = os.getpgid(int(process.name))
    return found


def has_guard(pids: Iterable[int]) -> bool:
    """Whether there is a guard among them, who ends the others."""
    return any(guard.NAME in _words(pid) for pid in pids)


def end(file: Path) -> None:
    """End those that hold `file` open, the youngest first: the product, then its broker, then its database."""
    for _ in range(_GENERATIONS_MAX):
        left = holders(file)
        for pid, group in sorted(left.items(), reverse=True):
            if _parent(pid) not in left:
                guard.end_group(group, SIGTERM)


def _holds(process: Path, file: Path) -> bool:
    # Others' processes do not show us their files, and any process may be gone by now.
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
