"""A program of the local run as a value: what to execute, where, as which user, and how to stop it.

Servers describe programs, the launcher executes them, the supervisor watches them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM, Signals

_TAIL_BYTES = 16_384


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """The system user of a program if the caller is root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    name: str
    command: tuple[str, ...]
    directory: Path
    """Entered before the user is changed, so the account need not be able to traverse its parents."""
    log: Path
    environment: Mapping[str, str]
    account: Account | None = None
    stop_signals: tuple[tuple[Signals, float], ...] = ((SIGTERM, 10.0),)
    """Sent in order, each with the seconds to wait; SIGKILL to the whole group follows."""

    end_strays: Callable[[], None] = lambda: None
    """Called when the leader and its group are dead, for processes that had left the group."""

    def last_words(self, lines: int = 10) -> str:
        """The end of the program's log, for the message about its death."""
        if not self.log.exists():
            return "  | (somebody removed it)"
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, 2) - _TAIL_BYTES))
            text = log.read().decode(errors="replace")
        return "\n".join(f"  | {line}" for line in text.splitlines()[-lines:])


Runner = Callable[[Program], None]
"""Runs a program to its end; raises EmbeddedError if it fails."""
