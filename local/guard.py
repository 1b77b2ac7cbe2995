"""The process that ends the programs of a killed supervisor.

It runs as a script (standard library only, no import of the product) and reads `+GROUP SIGNAL` and `-GROUP` lines from
a pipe. The pipe closes when the supervisor dies, however it dies.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

NAME = "lariba-guard"
"""An argument of its command line, by which leftovers.py finds it."""
# Long enough for PostgreSQL's shutdown checkpoint and for Celery to finish a short task.
_STOP_SECONDS = 10.0
_KILL_SECONDS = 5.0
_POLL_SECONDS = 0.05


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll `condition` until it holds or `seconds` have passed; returns whether it held."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def signal_group(group: int, number: int) -> bool:
    """Signal every process of the group; returns whether there was one."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS, for a group of zombies
        return False
    return True


def kill_group(group: int) -> None:
    """SIGKILL every process of the group and wait until the last one is gone."""
    signal_group(group, signal.SIGKILL)
    wait_until(lambda: not signal_group(group, 0) or _is_all_dead(group), _KILL_SECONDS)


def end_group(group: int, stop_signal: int) -> None:
    # The stop signal goes to the leader, which stops its own workers. A signal to the whole group would end Celery's
    # pool in the middle of a task.
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
    """Whether the group consists of zombies.

    Process 1 reaps orphans, but in a container it may be a program that does not.
    """
    members = [stat for stat in Path("/proc").glob("[0-9]*/stat") if _state_and_group(stat)[1] == str(group)]
    return bool(members) and all(_is_dead(stat) for stat in members)


def _is_dead(stat: Path) -> bool:
    return _state_and_group(stat)[0] in {"Z", "X"}


def _state_and_group(stat: Path) -> tuple[str, str]:
    """From Linux's /proc; empty elsewhere, and for a process that is just gone."""
    try:
        text = stat.read_text(errors="replace")
    except OSError:
        return "", ""
    # pid (name) state parent group …; the name may contain brackets and spaces.
    state, _parent, group, *_ = text.rpartition(")")[2].split()
    return state, group


def groups_left(lines: Iterable[str]) -> dict[int, int]:
    """The groups added and not removed, oldest first, each with its stop signal."""
    groups: dict[int, int] = {}
    for line in lines:
        if line.startswith("+"):
            group, stop_signal = line[1:].split()
            groups[int(group)] = int(stop_signal)
        else:
            groups.pop(int(line[1:]), None)
    return groups


def main(pipe: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with os.fdopen(pipe) as lines:
        left = groups_left(lines)
    for group, stop_signal in reversed(left.items()):
        end_group(group, stop_signal)


if __name__ == "__main__":
    main(int(sys.argv[-1]))
