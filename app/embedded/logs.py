"""Keeps the log files of a run that nobody looks after from filling the disk."""

import shutil
from pathlib import Path

LOG_BYTES_MAX = 64 * 1024 * 1024


def keep_short(log: Path, bytes_max: int = LOG_BYTES_MAX) -> None:
    """Move a long log's content aside, replacing what was moved before; its writer need not know.

    The file is appended to by a running program, so it is copied and emptied, not renamed: the lines written
    between the two steps are lost, which a developer's log can bear.
    """
    if log.exists() and log.stat().st_size > bytes_max:
        shutil.copyfile(log, log.with_name(f"{log.name}.old"))
        with log.open("r+b") as file:
            file.truncate(0)
