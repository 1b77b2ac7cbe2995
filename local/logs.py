"""Bounds the log files of a run."""

import contextlib
import itertools
import shutil
from pathlib import Path

BYTES_MAX = 8 * 1024 * 1024
OLDER_MAX = 3


def keep_short(log: Path, bytes_max: int = BYTES_MAX) -> None:
    """Rotate a log that is too long: to `.1`, the former `.1` to `.2` and so on.

    A running program appends to the file, so it is copied and truncated instead of renamed. Lines written between the
    two steps are lost, which is acceptable for a developer's log.
    """
    if not log.exists() or log.stat().st_size <= bytes_max:
        return
    older = [log.with_name(f"{log.name}.{number}") for number in range(1, OLDER_MAX + 1)]
    # A full disk must not end the run, so the log is given up.
    with contextlib.suppress(OSError):
        for newer, target in reversed(list(itertools.pairwise(older))):
            if newer.exists():
                newer.replace(target)
        shutil.copyfile(log, older[0])
    with log.open("r+b") as file:
        file.truncate(0)
