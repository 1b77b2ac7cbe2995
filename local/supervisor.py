"""Watches the programs of the local run: restarts one that died, stops all of them in reverse order.

If the supervisor itself is killed, the guard ends its programs.
"""

import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from subprocess import Popen
from types import FrameType, TracebackType
from typing import NoReturn, Self

from local.console import say
from local.errors import EmbeddedError, StopRequestedError
from local.launcher import Launcher, describe_end
from local.logs import keep_short
from local.program import Program

# A program that dies more often than this is broken.
_DEATHS_MAX = 5
_DEATHS_SECONDS = 60.0
_RUN_SECONDS = 300.0
# Fast enough for Ctrl-C, at a hundredth of a percent of a core.
_TICK_SECONDS = 0.1


@dataclass(slots=True)
class _Child:
    program: Program
    process: Popen[bytes] | None
    deaths: deque[float] = field(default_factory=deque)
    restart_at: float = 0.0


class Supervisor:
    """`with Supervisor(...) as supervisor:` stops every program at the end of the block, also after an exception."""

    def __init__(self, *, inherited: tuple[int, ...] = (), first_pause_seconds: float = 1.0) -> None:
        self._first_pause_seconds = first_pause_seconds
        self._launcher = Launcher(inherited=inherited)
        self._children: list[_Child] = []
        self._is_watching = False
        self._signals_seen = 0
        self._handlers: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Under nohup SIGHUP is ignored and stays so: the run shall outlive its terminal.
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._count_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._children:
            say(f"Stopping {', '.join(child.program.name for child in reversed(self._children))} …")
        for child in reversed(self._children):
            if child.process is not None:
                self._launcher.stop(child.program, child.process, is_urgent=self._is_urgent)
        self._launcher.close()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def start(self, program: Program) -> None:
        self._raise_if_signalled()
        self._children.append(_Child(program, self._launcher.launch(program)))

    def run(self, program: Program) -> None:
        """Run a program to its end. Raises EmbeddedError if it fails."""
        process = self._launcher.launch(program)
        try:
            self.wait_for(lambda: process.poll() is not None, program, _RUN_SECONDS)
        except BaseException:
            self._launcher.stop(program, process)
            raise
        self._launcher.conclude(program, process)

    def wait_for(self, condition: Callable[[], bool], program: Program, seconds: float = 60.0) -> None:
        """Wait until `program` makes `condition` hold. Raises EmbeddedError if a program dies meanwhile."""
        deadline = time.monotonic() + seconds
        while True:
            self._check()
            if condition():
                return
            if time.monotonic() >= deadline:
                raise EmbeddedError(f"{program.name} was not ready within {seconds:.0f} s (log: {program.log})")
            time.sleep(_TICK_SECONDS)

    def watch(self) -> NoReturn:
        """Keep all programs running until a signal arrives or one program dies too often."""
        self._is_watching = True
        while True:
            self._check()
            time.sleep(_TICK_SECONDS)

    def _check(self) -> None:
        self._raise_if_signalled()
        self._launcher.keep_guard()
        for child in self._children:
            keep_short(child.program.log)
            if child.process is None:
                if time.monotonic() >= child.restart_at:
                    child.process = self._launcher.launch(child.program)
            elif child.process.poll() is not None:
                self._handle_death(child, child.process)

    def _handle_death(self, child: _Child, process: Popen[bytes]) -> None:
        """Kill what is left of the dead program's group, and plan its restart or give up."""
        child.process = None
        self._launcher.clear(child.program, process)
        now = time.monotonic()
        child.deaths.append(now)
        while child.deaths[0] < now - _DEATHS_SECONDS:
            child.deaths.popleft()
        end = f"{child.program.name} {describe_end(process)}"
        log = f"the end of {child.program.log}:\n{child.program.last_words()}"
        if not self._is_watching:
            raise EmbeddedError(f"{end} before everything was ready; {log}")
        if len(child.deaths) > _DEATHS_MAX:
            raise EmbeddedError(f"{end}, the {len(child.deaths)}th time in a minute; {log}")
        delay = self._first_pause_seconds * 2 ** (len(child.deaths) - 1)
        child.restart_at = now + delay
        say(f"{end}, next start in {delay:g} s; {log}")

    def _raise_if_signalled(self) -> None:
        if self._signals_seen:
            raise StopRequestedError

    def _is_urgent(self) -> bool:
        return self._signals_seen > 1

    def _count_signal(self, _number: int, _frame: FrameType | None) -> None:
        # Only counted: an exception from a handler could come between the start of a program and its registration.
        self._signals_seen += 1
