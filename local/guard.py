"""The process that outlives a killed supervisor just long enough to end what that one had started.

Executed as a script of its own (standard library only, no import of the product): it reads `+GROUP SIGNAL`
and `-GROUP` lines from a pipe. The pipe's end is the supervisor's death, however it came.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

NAME = "lariba-guard"
"""Stands on its command line."""
# Long enough for PostgreSQL's shutdown checkpoint and for Celery to finish a short task.
_STOP_SECONDS = 10.0
_KILL_SECONDS = 5.0
_POLL_SECONDS = 0.05


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll `condition` until it holds or `seconds` have passed; says whether it held."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def signal_group(group: int, number: int) -> bool:
    """Signal every process of the group; says whether there was one."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says so of a group of zombies
        return False
    return True


def kill_group(group: int) -> None:
    """SIGKILL every process of the group and wait for the last one to vanish."""
    signal_group(group, signal.SIGKILL)
    wait_until(lambda: not signal_group(group, 0) or _is_all_dead(group), _KILL_SECONDS)


def end_group(group: int, stop_signal: int) -> None:
    # Only the leader is asked: it stops its own workers in its own order. A signal to the whole group would
    # end Celery's pool in the middle of a task.
    with contextlib.suppress(ProcessLookupError):
        os.kill(group, stop_signal)
        wait_until(lambda: _is_gone(group), _STOP_SECONDS)
    kill_group(group)


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return _is_dead(Path(f"/proc/{pid}/stat"))


def _is_all_dead(group: int) -> bool:
    """Whether the group has members that nobody has reaped, and no others.

    Orphans are reaped by process 1, which in a container may be a program that does not know its duty.
    """
    members = [stat for stat in Path("/proc").glob("[0-9]*/stat") if _state_and_group(stat)[1] == str(group)]
    return bool(members) and all(_is_dead(stat) for stat in members)


def _is_dead(stat: Path) -> bool:
    return _state_and_group(stat)[0] in {"Z", "X"}


def _state_and_group(stat: Path) -> tuple[str, str]:
    """From a file of Linux's /proc; elsewhere, and of a process that has just vanished, empty."""
    try:
        text = stat.read_text(errors="replace")
    except OSError:
        return "", ""
    # pid (name) state parent group …, where the name may hold anything, brackets and spaces too.
    state, _parent, group, *_ = text.rpartition(")")[2].split()
    return state, group


def groups_left(lines: Iterable[str]) -> dict[int, int]:
    """The groups announced and not taken back, oldest first, each with its stop signal."""
    groups: dict[int, int] = {}
    for line in lines:
        if line.startswith("+"):
            group, stop_signal = line[1:].split()
            groups[int(group)] = int(stop_signal)
        else:
            groups.pop(int(line[1:]), None)
    return groups


def main(pipe: int) -> None:
    for polite in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(polite, signal.SIG_IGN)
    with os.fdopen(pipe) as lines:
        left = groups_left(lines)
    for group, stop_signal in reversed(left.items()):
        end_group(group, stop_signal)


if __name__ == "__main__":
    main(int(sys.argv[-1]))
