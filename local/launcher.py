"""Starts programs that cannot outlive this process: each in a session of its own, reported to the guard.

It restarts none of them but the guard.
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

# The child itself reports its process group to the guard before it executes the program: a supervisor that is killed
# right after the fork would otherwise leave a child unknown to the guard. The guard's pipe is the child's standard
# input, so that the redirection closes it; a preexec_fn is unsafe beside threads.
_REPORT_AND_EXEC = 'echo "+$$ $0" >&0; exec "$@" </dev/null'
_RUN_SECONDS = 300.0
_GUARD_SECONDS = 60.0


class Launcher:
    def __init__(self, *, inherited: tuple[int, ...] = ()) -> None:
        """`inherited` are descriptors that the guard and all programs keep open (a lock)."""
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
                ["/bin/sh", "-c", _REPORT_AND_EXEC, str(int(stop_signal)), *program.command],
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
        """Clear up after a program that has run to its end. Raises EmbeddedError if it has failed."""
        self.clear(program, process)
        if process.returncode:
            raise EmbeddedError(f"{program.name} {describe_end(process)}: {_last_line(program.log)}")

    def stop(self, program: Program, process: Popen[bytes], *, is_urgent: Callable[[], bool] = lambda: False) -> None:
        """Send the program's stop signals, then kill its group; `is_urgent` skips the waiting."""
        for stop_signal, seconds in program.stop_signals:
            if process.poll() is not None or is_urgent():
                break
            process.send_signal(stop_signal)
            guard.wait_until(lambda: process.poll() is not None or is_urgent(), seconds)
        self.clear(program, process)

    def clear(self, program: Program, process: Popen[bytes]) -> None:
        """Kill what is left of the program: a dead leader's workers would keep its port, its queue or its files."""
        guard.signal_group(process.pid, signal.SIGKILL)
        process.wait()
        guard.kill_group(process.pid)
        program.end_strays()
        self._stop_signals.pop(process.pid, None)
        self._send(f"-{process.pid}\n")

    def keep_guard(self) -> None:
        """Replace a guard that was killed; the new one gets all groups."""
        if self._guard.poll() is None:
            return
        os.close(self._pipe)
        self._start_guard()

    def close(self) -> None:
        """Close the guard's pipe; it ends every program that was not stopped."""
        os.close(self._pipe)
        self._guard.wait(_GUARD_SECONDS)

    def _start_guard(self) -> None:
        reader, self._pipe = os.pipe()
        # Before the guard starts, as this process may be killed at any moment after; a pipe holds that many lines.
        for group, stop_signal in self._stop_signals.items():
            self._send(f"+{group} {int(stop_signal)}\n")
        # The script comes by standard input, so that `pkill -f` with the supervisor's name does not match the guard.
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

    def _send(self, line: str) -> None:
        # The next keep_guard() replaces a dead guard, and sends it all groups.
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
