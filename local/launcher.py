"""Starts programs that cannot outlive this process: each in a session of its own, known to the guard.

Knows nothing about what the programs are, and restarts none of them (the guard apart).
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen

from local import guard
from local.errors import EmbeddedError
from local.program import Program

# The program itself tells the guard its process group, before its first instruction: a supervisor killed
# between fork and its own next line would otherwise leave a child that nobody knows. The guard's pipe travels
# as standard input, so that `exec` closes it; a preexec_fn would do as well, but is unsafe beside threads.
_ANNOUNCE_AND_BECOME = 'echo "+$$ $0" >&0; exec "$@" </dev/null'
_RUN_SECONDS = 300.0
_GUARD_SECONDS = 60.0


class Launcher:
    def __init__(self, *, inherited: tuple[int, ...] = ()) -> None:
        """`inherited` are descriptors that the guard and all programs hold open for as long as they live (a lock)."""
        self._inherited = inherited
        self._stop_signals: dict[int, signal.Signals] = {}
        self._start_guard()

    def launch(self, program: Program) -> Popen[bytes]:
        self.keep_guard()
        stop_signal = program.stop_signals[0][0]
        account = program.account
        log = os.open(program.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            process = Popen(
                ["/bin/sh", "-c", _ANNOUNCE_AND_BECOME, str(int(stop_signal)), *program.command],
                stdin=self._pipe,
                stdout=log,
                stderr=STDOUT,
                cwd=program.directory,
                env=dict(program.environment),
                start_new_session=True,
                pass_fds=self._inherited,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        except (OSError, subprocess.SubprocessError) as error:
            as_whom = f" as {account.name}" if account else ""
            raise EmbeddedError(f"cannot start {program.name}{as_whom}: {error}") from error
        finally:
            os.close(log)
        self._stop_signals[process.pid] = stop_signal
        return process

    def run(self, program: Program) -> None:
        process = self.launch(program)
        guard.wait_until(lambda: process.poll() is not None, _RUN_SECONDS)
        self.conclude(program, process)

    def conclude(self, program: Program, process: Popen[bytes]) -> None:
        """Clear up after a program that was to run to its end, and refuse any end but a success."""
        self.clear(program, process)
        if process.returncode:
            raise EmbeddedError(f"{program.name} {describe_end(process)}: {_last_line(program.log)}")

    def stop(self, program: Program, process: Popen[bytes], *, is_urgent: Callable[[], bool] = lambda: False) -> None:
        """Ask as the program wants to be asked, then kill its group; `is_urgent` cuts the asking short."""
        for stop_signal, seconds in program.stop_signals:
            if process.poll() is not None or is_urgent():
                break
            process.send_signal(stop_signal)
            guard.wait_until(lambda: process.poll() is not None or is_urgent(), seconds)
        self.clear(program, process)

    def clear(self, program: Program, process: Popen[bytes]) -> None:
        """Leave nothing of the program: a dead leader's workers would hold its port, its queue or its files."""
        guard.signal_group(process.pid, signal.SIGKILL)
        process.wait()
        guard.kill_group(process.pid)
        program.end_strays()
        self._stop_signals.pop(process.pid, None)
        self._tell(f"-{process.pid}\n")

    def keep_guard(self) -> None:
        """Replace a guard that somebody killed, and tell the new one everything the old one knew."""
        if self._guard.poll() is None:
            return
        os.close(self._pipe)
        self._start_guard()

    def close(self) -> None:
        """Let the guard go; it ends whatever was launched and never stopped."""
        os.close(self._pipe)
        self._guard.wait(_GUARD_SECONDS)

    def _start_guard(self) -> None:
        reader, self._pipe = os.pipe()
        # Before it is there, and as many as a pipe holds: this process may be killed at any moment from then on.
        for group, stop_signal in self._stop_signals.items():
            self._tell(f"+{group} {int(stop_signal)}\n")
        # The script comes by standard input: a `pkill -f` aimed at the supervisor's name misses the guard.
        with Path(guard.__file__).open("rb") as script:
            self._guard = Popen(
                [sys.executable, "-I", "-S", "-", guard.NAME, str(reader)],
                stdin=script,
                stdout=DEVNULL,
                stderr=DEVNULL,
                cwd="/",
                pass_fds=(reader, *self._inherited),
                start_new_session=True,
            )
        os.close(reader)

    def _tell(self, line: str) -> None:
        # A guard that is gone is replaced, and told all, by the next keep_guard().
        with contextlib.suppress(BrokenPipeError):
            os.write(self._pipe, line.encode())


def describe_end(process: Popen[bytes]) -> str:
    code = process.returncode
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{lines[-1].strip()} (log: {log})" if lines else f"it wrote nothing to {log}"
