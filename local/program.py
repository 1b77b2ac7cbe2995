"""A program of the embedded run as a value: what to execute, where, as whom, and how it is asked to stop.

Servers describe programs, the launcher executes them, the supervisor watches them. Starts nothing itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM, Signals

_TAIL_BYTES = 16_384


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """The system user that a program runs as when the caller is root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    name: str
    command: tuple[str, ...]
    directory: Path
    """Entered before the account is changed, so the account need not be able to reach it."""
    log: Path
    environment: Mapping[str, str]
    account: Account | None = None
    stop_signals: tuple[tuple[Signals, float], ...] = ((SIGTERM, 10.0),)
    """Sent one after the other, each with the seconds it is given; SIGKILL to the whole group comes last."""

    end_strays: Callable[[], None] = lambda: None
    """Called when the leader and its group are dead, for processes that had left the group."""

    def last_words(self, lines: int = 10) -> str:
        """The end of the program's log, for a person who has just been told that it died."""
        if not self.log.exists():
            return "  | (somebody removed it)"
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, 2) - _TAIL_BYTES))
            text = log.read().decode(errors="replace")
        return "\n".join(f"  | {line}" for line in text.splitlines()[-lines:])


Runner = Callable[[Program], None]
"""Runs a program to its end; raises EmbeddedError when that end is not a success."""
