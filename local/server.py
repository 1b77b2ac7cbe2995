"""What the embedded PostgreSQL and Redis have in common, and how to run one of them alone, as tests do.

The supervisor of `make run` uses prepare, program and is_ready, and starts the program itself.
"""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from subprocess import Popen
from types import TracebackType
from typing import Self

from local.errors import EmbeddedError
from local.guard import wait_until
from local.launcher import Launcher
from local.program import Program, Runner

_READY_SECONDS = 60.0
_IMMEDIATE_SECONDS = 10.0
# After kill -9 the helpers of the dead server may keep its shared memory for some milliseconds.
_START_ATTEMPTS = 5
_PAUSE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class _Running:
    program: Program
    process: Popen[bytes]

    def has_ended(self) -> bool:
        return self.process.poll() is not None


class EmbeddedServer(ABC):
    """`with EmbeddedPostgres(folder) as server:` runs it; the data stay. It cannot outlive this process."""

    name: str
    immediate_signal = Signals.SIGKILL

    def __init__(self, directory: Path, *, log: Path | None = None) -> None:
        self.directory = directory.resolve()
        self.log = log or self.directory.with_name(f"{self.directory.name}.log")
        self._launcher: Launcher | None = None
        self._running: _Running | None = None

    @abstractmethod
    def prepare(self, run: Runner) -> None:
        """Prepare the folder; safe to repeat. `run` executes a program to its end."""

    @abstractmethod
    def program(self) -> Program: ...

    @abstractmethod
    def is_ready(self) -> bool: ...

    @abstractmethod
    def tidy(self) -> None:
        """Remove what a stopped server leaves outside its folder."""

    @property
    def pid(self) -> int:
        if self._running is None:
            raise EmbeddedError(f"{self.name} is not started")
        return self._running.process.pid

    def __enter__(self) -> Self:
        self._launcher = Launcher()
        try:
            self.prepare(self._launcher.run)
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._launcher is not None:
            self._launcher.close()
            self._launcher = None

    def start(self) -> None:
        """Start and wait until it serves; also after stop(), a crash or a kill."""
        if self._running is not None and not self._running.has_ended():
            raise EmbeddedError(f"{self.name} is running already")
        for _ in range(_START_ATTEMPTS):
            if self._start_once():
                return
            wait_until(lambda: False, _PAUSE_SECONDS)
        raise EmbeddedError(f"{self.name} does not start (log: {self.log})\n{self.program().last_words()}")

    def stop(self, *, immediate: bool = False) -> None:
        """Orderly, or `immediate`: without flushing, as if the machine had lost power."""
        if self._running is None or self._launcher is None:
            return
        if immediate:
            self._running.process.send_signal(self.immediate_signal)
            wait_until(self._running.has_ended, _IMMEDIATE_SECONDS)
        self._launcher.stop(self._running.program, self._running.process)
        self._running = None
        self.tidy()

    def kill(self) -> None:
        """End it as a crash would. start() recovers from it."""
        if self._running is not None:
            self._running.process.kill()
            self._running.process.wait()

    def _start_once(self) -> bool:
        if self._launcher is None:
            raise EmbeddedError(f"{self.name} runs inside its `with` block only")
        if self._running is not None:
            self._launcher.clear(self._running.program, self._running.process)
        program = self.program()
        running = self._running = _Running(program, self._launcher.launch(program))
        wait_until(lambda: running.has_ended() or self.is_ready(), _READY_SECONDS)
        if not running.has_ended() and not self.is_ready():
            raise EmbeddedError(f"{self.name} did not answer within {_READY_SECONDS:.0f} s (log: {self.log})")
        return not running.has_ended()


def make_private_folder(directory: Path) -> None:
    """A folder that only its owner can enter; an existing one keeps its mode."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise EmbeddedError(f"{directory} is not writable for this user")
