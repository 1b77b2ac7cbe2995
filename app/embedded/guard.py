"""The process that outlives a killed supervisor just long enough to end what that one had started.

Executed as a script of its own (standard library only, no import of the product): it reads `+GROUP SIGNAL` and
`-GROUP` lines from a pipe. The pipe's end is the supervisor's death, however it came.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable

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
    wait_until(lambda: not signal_group(group, 0), _KILL_SECONDS)


def end_group(group: int, stop_signal: int) -> None:
    # Only the leader is asked: it stops its own workers in its own order. A signal to the whole group would end
    # Celery's pool in the middle of a task.
    with contextlib.suppress(ProcessLookupError):
        os.kill(group, stop_signal)
        wait_until(lambda: not signal_group(group, 0), _STOP_SECONDS)
    kill_group(group)


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
