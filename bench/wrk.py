"""Runs wrk, one thread, closed loop, keep-alive, with one of the Lua scripts beside this file."""

import json
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOW_TO_GET_IT = "bench: wrk is missing: apt-get install wrk (Debian, Ubuntu) or brew install wrk (macOS)"
# wrk itself ends on time; this is for a server that hangs its connections up in a way that it never notices.
_PATIENCE_SECONDS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What is sent: by which script, by whom, over how many connections and for how long."""

    script: str
    connections: int
    senders: Path
    path: str = "/v1/events/ingest"
    argument: str = ""
    """What the script's last argument means, the script says."""
    run: str | None = None
    """The 24 hex digits that make this run's ids its own; None makes new ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What came back, as wrk counted it. `refused` are the answers of 400 and above, all others are 2xx."""

    seconds: float
    requests: int
    refused: int
    timeouts: int
    broken: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    round_seconds: float

    @property
    def accepted(self) -> int:
        return self.requests - self.refused


class WrkError(Exception):
    """wrk did not run; the message says why."""


def is_installed() -> bool:
    return shutil.which("wrk") is not None


def new_run() -> str:
    return secrets.token_hex(12)


def send(url: str, load: Load, seconds: float) -> Answers:
    """Send for `seconds`; a latency is measured from the sending of the request, not from when it was due."""
    command = ["wrk", "-t1", f"-c{load.connections}", f"-d{max(1, round(seconds))}s", "-s"]
    command += [str(HERE / f"{load.script}.lua"), url, "--", load.path, load.run or new_run(), str(load.senders)]
    command += [load.argument]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + _PATIENCE_SECONDS)
    for line in ended.stdout.splitlines():
        if line.startswith("BENCH "):
            return Answers(**json.loads(line.removeprefix("BENCH ")))
    raise WrkError(f"wrk {' '.join(ended.stderr.split()) or ended.stdout or ended.returncode}")


def version() -> str:
    said = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False)
    return (said.stdout or said.stderr).partition("Copyright")[0].strip() or "wrk"


def check() -> None:
    """End the process with one line if wrk is missing."""
    if not is_installed():
        sys.exit(HOW_TO_GET_IT)
