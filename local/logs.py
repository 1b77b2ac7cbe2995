"""Keeps the log files of a run that nobody looks after from filling the disk."""

import contextlib
import itertools
import shutil
from pathlib import Path

BYTES_MAX = 8 * 1024 * 1024
OLDER_MAX = 3


def keep_short(log: Path, bytes_max: int = BYTES_MAX) -> None:
    """Move a long log's content aside (`.1`, and what was there to `.2` …); its writer need not know.

    The file is appended to by a running program, so it is copied and emptied, not renamed: the lines written
    between the two steps are lost, which a developer's log can bear.
    """
    if not log.exists() or log.stat().st_size <= bytes_max:
        return
    older = [log.with_name(f"{log.name}.{number}") for number in range(1, OLDER_MAX + 1)]
    # A full disk must not end the run: the log is what can be spared.
    with contextlib.suppress(OSError):
        for newer, target in reversed(list(itertools.pairwise(older))):
            if newer.exists():
                newer.replace(target)
        shutil.copyfile(log, older[0])
    with log.open("r+b") as file:
        file.truncate(0)
