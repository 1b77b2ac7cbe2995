"""demo.env: where a person, a shell and a script find the run's addresses and demo credentials."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from local.var_dir import write_private


def read(path: Path) -> dict[str, str]:
    """What an earlier run wrote; empty when there was none, or when somebody has spoilt the file."""
    try:
        lines = [line.partition("=") for line in path.read_text().splitlines() if not line.startswith("#")]
        return {name: "".join(shlex.split(value)) for name, equals, value in lines if equals}
    except (FileNotFoundError, ValueError):
        return {}


def write(path: Path, values: Mapping[str, str]) -> None:
    """KEY=VALUE lines that `. demo.env` in a shell reads alike."""
    write_private(path, "".join(f"{name}={_quoted(value)}\n" for name, value in values.items()))


def _quoted(value: str) -> str:
    # shlex.quote is stricter than an assignment needs: a URL's `?` means nothing there, and without quotes
    # any reader that splits at the first `=` has the value.
    return value if re.fullmatch(r"[\w@%+=:,./?-]*", value, re.ASCII) else shlex.quote(value)
