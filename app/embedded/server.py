"""What the embedded PostgreSQL and Redis have in common, and how a test runs one of them on its own.

The supervisor of `make run` uses only the description (prepare, program, is_ready) and starts the program itself.
"""

import os
from abc import ABC, abstractmethod
from pathlib import Path
from subprocess import Popen
from types import TracebackType
from typing import Self

from app.embedded.errors import EmbeddedError
from app.embedded.guard import wait_until
from app.embedded.launcher import Launcher, describe_end
from app.embedded.program import Program, Runner

_READY_SECONDS = 60.0
# After kill -9 the dead server's helpers may hold its shared memory for some milliseconds more.
_START_ATTEMPTS = 5
_PAUSE_SECONDS = 0.2


class EmbeddedServer(ABC):
    """`with EmbeddedPostgres(folder) as server:` runs it; data stay in the folder, and no crash of ours orphans it."""

    name: str

    def __init__(self, directory: Path, *, log: Path | None = None) -> None:
        self.directory = directory.resolve()
        self.log = log or self.directory.with_name(f"{self.directory.name}.log")
        self._launcher: Launcher | None = None
        self._process: Popen[bytes] | None = None

    @abstractmethod
    def prepare(self, run: Runner) -> None:
        """Make the folder ready; safe to repeat. `run` executes a program to its end."""

    @abstractmethod
    def program(self) -> Program: ...

    @abstractmethod
    def is_ready(self) -> bool: ...

    def tidy(self) -> None:
        """Remove what a stopped server needs no more."""

    @property
    def pid(self) -> int:
        if self._process is None:
            raise EmbeddedError(f"{self.name} is not started")
        return self._process.pid

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
        if self._launcher is None:
            raise EmbeddedError(f"{self.name} runs inside its `with` block only")
        if self._process is not None and self._process.poll() is None:
            raise EmbeddedError(f"{self.name} is running already")
        for _ in range(_START_ATTEMPTS):
            self._clear()
            process = self._process = self._launcher.launch(self.program())
            wait_until(lambda process=process: process.poll() is not None or self.is_ready(), _READY_SECONDS)  # type: ignore[misc]
            if process.poll() is None:
                break
            wait_until(lambda: False, _PAUSE_SECONDS)
        else:
            raise EmbeddedError(f"{self.name} {describe_end(process)}\n{self.program().last_words()}")
        if not self.is_ready():
            raise EmbeddedError(f"{self.name} did not answer within {_READY_SECONDS:.0f} s (log: {self.log})")

    def stop(self, *, immediate: bool = False) -> None:
        """Orderly, or `immediate`: without flushing, as if the machine had lost power."""
        if self._process is None or self._launcher is None:
            return
        if immediate:
            self._process.kill()
        self._launcher.stop(self.program(), self._process)
        self._process = None
        self.tidy()

    def _clear(self) -> None:
        if self._process is not None and self._launcher is not None:
            self._launcher.clear(self._process)
            self._process = None


def make_private_folder(directory: Path) -> None:
    """A folder that only its owner can enter; one that exists keeps the permissions that somebody gave it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise EmbeddedError(f"{directory} is not writable for this user")
