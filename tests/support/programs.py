"""Programs that a test starts as a person would, and a check that nothing of them is left."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support.waiting import wait_until

CHECKOUT = Path(__file__).parents[2]


class Running:
    """A started program and everything below it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said = ""
        self._seen: set[psutil.Process] = set()

    def family(self) -> list[psutil.Process]:
        """Every descendant; each one ever seen here is remembered for `nothing_is_left`."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        self._seen.update(found)
        return found

    def member(self, word: str) -> psutil.Process:
        """The living descendant, nearest to the top, whose command line holds `word`."""
        found = wait_until(lambda: next((one for one in self.family() if _says(one, word)), None), 60)
        assert found is not None
        return found

    def crash(self, word: str) -> None:
        """Kill that member, and wait for its replacement."""
        first = self.member(word)
        first.kill()
        wait_until(lambda: self.member(word).pid != first.pid, 60)

    def nothing_is_left(self) -> bool:
        return not any(lives(process) for process in self._seen)


def lives(process: psutil.Process) -> bool:
    """Neither gone nor a zombie: zombies wait for process 1, which the product does not control."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def started(*arguments: str, **variables: str) -> Iterator[Running]:
    """Python with `arguments` at the checkout's root; whatever a failing test leaves of it is killed."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=CHECKOUT,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    running = Running(process)
    with process:
        try:
            yield running
        finally:
            process.kill()
            process.wait()
            wait_until(running.nothing_is_left, 60)


def program_of(process: psutil.Process) -> str:
    """The name of its program; empty for one that has ended."""
    return Path(next(iter(_command_line(process)), "")).name


def _says(process: psutil.Process, word: str) -> bool:
    return word in " ".join(_command_line(process))


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []
