"""demo.env: the addresses and demo credentials of the run, for people, shells and scripts."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from local.var_dir import write_private


def read(path: Path) -> dict[str, str]:
    """The values of an earlier run; empty if the file is missing or cannot be read."""
    try:
        lines = [line.partition("=") for line in path.read_text().splitlines() if not line.startswith("#")]
        return {name: "".join(shlex.split(value)) for name, equals, value in lines if equals}
    except (FileNotFoundError, ValueError):
        return {}


def write(path: Path, values: Mapping[str, str]) -> None:
    """KEY=VALUE lines that a shell (`. demo.env`) reads to the same values."""
    write_private(path, "".join(f"{name}={_quoted(value)}\n" for name, value in values.items()))


def _quoted(value: str) -> str:
    # shlex.quote is stricter than an assignment needs: a URL's `?` means nothing there, and without quotes
    # any reader that splits at the first `=` has the value.
    return value if re.fullmatch(r"[\w@%+=:,./?-]*", value, re.ASCII) else shlex.quote(value)
