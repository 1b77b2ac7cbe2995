"""What the files of exports are called, and how long they are kept. A name is a public id, never a text of a caller."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Final

from app.events.export import Format

KEPT_FOR: Final = timedelta(days=7)
"""Long enough for a holiday, and short enough that forgotten files do not add up."""
_NAME: Final = re.compile(rf"(exp_[0-9A-Za-z]+)\.(?:[0-9]+\.part|(?:{'|'.join(Format)})\.gz)")


def part_path(folder: Path, public_id: str, restarts: int) -> Path:
    """What the worker writes, until all is in it. One that begins anew has another name: what was lost may come back,
    with a disk or on another machine, and must not be taken for what was written since.
    """
    return folder / f"{public_id}.{restarts}.part"


def file_path(folder: Path, public_id: str, form: Format) -> Path:
    return folder / f"{public_id}.{form}.gz"


def export_of(path: Path) -> str | None:
    """The public id of the export that a file belongs to; None if it is no file of an export."""
    found = _NAME.fullmatch(path.name)
    return found and found[1]
