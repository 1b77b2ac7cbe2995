"""Exports a day of events to a file before the day is dropped, and verifies the file.

A file is NDJSON compressed with zstd, one event a line. It gets its final name only when it is complete and flushed.
Row count and checksum verify it: PostgreSQL computes them from the table, Python from the file, read from its first
byte to its last.
"""

import hashlib
import json
import os
import stat
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple
from uuid import uuid4

from psycopg import sql

from app.database.owner import Connection
from app.maintenance.partitions import Partition

if sys.version_info >= (3, 14):  # pragma: no cover - the same module under its name in the standard library
    from compression import zstd
else:
    from backports import zstd

# About a megabyte of events.
_FETCH_ROWS: Final = 2_000
_DRAFT_SECONDS_MAX: Final = 3_600
_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
# With public ids, so that a file can be read without this database. PostgreSQL makes the text of a line, so that a
# number of any size in the payload stays exact.
_LINES: Final = """
    SELECT jsonb_build_object('event_uid', event_uid, 'event_id', event_id, 'event_type', event_type,
        'severity', severity, 'occurred_at', occurred_at, 'received_at', received_at,
        'workspace_id', workspaces.public_id, 'project_id', projects.public_id,
        'environment', environments.name, 'source_id', sources.public_id, 'source_key_id', source_keys.public_id,
        'payload', payload, 'is_occurred_at_far', is_occurred_at_far)::text AS line
    FROM {} AS event
    LEFT JOIN workspaces ON workspaces.id = event.workspace_id
    LEFT JOIN projects ON projects.id = event.project_id
    LEFT JOIN environments ON environments.id = event.environment_id
    LEFT JOIN sources ON sources.id = event.source_id
    LEFT JOIN source_keys ON source_keys.id = event.source_key_id
"""
# The sum does not depend on the order of lines, and changes with every missing, doubled or changed line.
_CONTENT: Final = """
    SELECT count(*), coalesce(sum(('x' || left(md5(line), 16))::bit(64)::bigint), 0)::text FROM ({}) AS lines
"""


class Content(NamedTuple):
    """Row count and checksum of a table or a file."""

    rows: int
    checksum: str
    """The sum of the first 64 bits, signed, of the MD5 of each line."""


class ExportError(Exception):
    """A file does not hold what was written to it; the message names the file."""


def export_partition(connection: Connection, partition: Partition, folder: Path) -> Content:
    """Write `partition` to `folder`, unless a file there holds the same content; returns the content of the file.

    1. Restrict the folder to this user, and remove the drafts of killed runs.
    2. Return if an earlier run has exported the same content.
    3. Write `events_YYYYMMDD.ndjson.zst`, read it back and rename it.
    4. Write its description, `events_YYYYMMDD.json`.

    A day that gets events after its export gets a further file (`events_YYYYMMDD.2…`). Raises OSError and ExportError.
    """
    _restrict(folder)
    _remove_drafts(folder, partition)
    held: Content | None = None
    for number in count(1):
        stem = partition.name if number == 1 else f"{partition.name}.{number}"
        if not (folder / f"{stem}.json").exists():
            break
        # From a run that was cut off before the drop, or of a day that got events again.
        held = held or content_of(connection, partition)
        if _holds(folder, stem, held):
            return held
    return _write(connection, partition, folder, stem)


def _holds(folder: Path, stem: str, held: Content) -> bool:
    description = json.loads((folder / f"{stem}.json").read_text())
    if Content(*(description[name] for name in Content._fields)) != held:
        return False
    try:
        return read_export(folder / f"{stem}.ndjson.zst") == held
    except (OSError, ExportError):
        return False


def _restrict(folder: Path) -> None:
    """It holds the events of all workspaces. The mode of another user's folder is left to that user."""
    found = folder.stat()
    if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != _FOLDER_MODE:
        folder.chmod(_FOLDER_MODE)


def _open_private(path: str, flags: int) -> int:
    """Readable for this user only, whatever the umask."""
    descriptor = os.open(path, flags, _FILE_MODE)
    os.fchmod(descriptor, _FILE_MODE)
    return descriptor


def _remove_drafts(folder: Path, partition: Partition) -> None:
    """Remove the drafts of killed runs; a draft that is being written is younger."""
    for draft in folder.glob(f".{partition.name}*.draft"):
        if time.time() - draft.stat().st_mtime > _DRAFT_SECONDS_MAX:
            draft.unlink(missing_ok=True)


def content_of(connection: Connection, partition: Partition) -> Content:
    lines = sql.SQL(_LINES).format(partition.table)
    row = connection.execute(sql.SQL(_CONTENT).format(lines)).fetchone()
    return Content(*row) if row else Content(0, "0")


def read_export(file: Path) -> Content:
    """The content of a file, computed from its bytes. Raises OSError, and ExportError if it is cut or damaged."""
    rows = total = 0
    try:
        with zstd.open(file, "rb") as lines:
            for line in lines:
                rows += 1
                total += _digest(line.rstrip(b"\n"))
    except (EOFError, zstd.ZstdError) as error:
        raise ExportError(f"{file} is cut or damaged") from error
    return Content(rows, str(total))


def _write(connection: Connection, partition: Partition, folder: Path, stem: str) -> Content:
    file = folder / f"{stem}.ndjson.zst"
    draft = folder / f".{stem}.{uuid4().hex}.draft"
    rows = total = 0
    try:
        with open(draft, "xb", opener=_open_private) as raw:
            with zstd.open(raw, "wb") as compressed:
                compressed.write(b"")  # else a day without events gives an empty file, which is not valid zstd
                for line in _lines_of(connection, partition):
                    compressed.write(line + b"\n")
                    rows, total = rows + 1, total + _digest(line)
            raw.flush()
            os.fsync(raw.fileno())
        content = read_export(draft)
        if content != Content(rows, str(total)):
            raise ExportError(f"{draft} does not hold what was written into it")
        draft.rename(file)
    finally:
        draft.unlink(missing_ok=True)
    _describe(folder / f"{stem}.json", partition, file, content)
    return content


def _lines_of(connection: Connection, partition: Partition) -> Iterator[bytes]:
    with connection.transaction(), connection.cursor(name="export") as cursor:
        cursor.itersize = _FETCH_ROWS
        cursor.execute(sql.SQL(_LINES + " ORDER BY event.received_at, event.event_uid").format(partition.table))
        for (line,) in cursor:
            yield line.encode()


def _describe(path: Path, partition: Partition, file: Path, content: Content) -> None:
    facts = {
        "file": file.name,
        "day": str(partition.day),
        **content._asdict(),
        "bytes": file.stat().st_size,
        "sha256": _sha256(file),
    }
    draft = path.with_name(f".{path.name}.{uuid4().hex}.draft")
    with open(draft, "x", opener=_open_private) as raw:
        raw.write(json.dumps(facts, indent=2) + "\n")
    _flush(draft)
    draft.rename(path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(file: Path) -> str:
    with file.open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


def _digest(line: bytes) -> int:
    return int.from_bytes(hashlib.md5(line, usedforsecurity=False).digest()[:8], "big", signed=True)
