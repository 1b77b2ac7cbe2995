"""The work of an export: the same chunks as the stream's, each appended to the file, and then noted in the row.

A turn that is killed leaves at most what is not noted behind the end of the file; the next one cuts it off and goes on.
A job goes on though its project is archived or its workspace suspended: both can still be read, also as a stream. What
retention deletes meanwhile is missing in the file, as it would be missing in a search.
"""

import errno
import shutil
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

import structlog
from sqlalchemy import ColumnElement, func, or_
from sqlalchemy.orm import Session

from app.events.export import SECONDS_MAX, Chunk, Format, Matches, head, lines, next_chunk, tail
from app.events.exports.files import KEPT_FOR, file_path, part_path
from app.events.query.parsing import parse
from app.events.query.resolution import KnownNames, bound
from app.events.statements import EXPORT, reading
from app.events.transactions import FewDays
from app.events.walk import Key
from app.jobs.export_file import append, appending, name, sha256_of
from app.jobs.turns import JobError, Turn, end, note, postpone
from app.models import Export
from app.models.job import JobState

_log = structlog.get_logger()

# The disk may be shared with others, who would fail with the export if it were filled to the last byte.
_FREE_BYTES_MIN: Final = 268_435_456
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# After each chunk the job rests for so many times as long as the chunk took, as a purge does: no caller waits for it,
# and cores and disk are ingest's as well.
_RESTS: Final = 0.5
# While the folder cannot be used.
_UNUSABLE_SECONDS: Final = 30.0
# While another turn has the file.
_OVERTAKEN_SECONDS: Final = 1.0
RESTARTS_MAX: Final = 3
"""How often an export begins anew. Of worker machines that share no folder each loses what another one has noted, and
no other reason comes so often.
"""
# Nothing is written yet: also what a job begins anew with whose file is gone.
_UNWRITTEN: Final[dict[str, Any]] = {
    "reached_at": None,
    "reached_uid": None,
    "bytes": 0,
    "events": 0,
    "is_written": False,
}


class _LostFileError(Exception):
    """The file holds less than was noted: removed by hand, or on a disk that was replaced."""


def write_export(turn: Turn) -> None:
    """Write some chunks, or take the checksum of a file that has them all.

    Raises JobError if there is no space or the file is lost again and again, QueryTooBroad and StorageUnavailable.
    """
    export = _read(turn)
    if export is None:
        return
    try:
        _require_folder(turn)
        _write(turn, export)
    except OSError as error:
        if error.errno in _FULL:
            # Perhaps by the file of another, which goes when that one fails, or has expired.
            raise JobError("disk_full", may_pass=True) from error
        # The fault of the folder, and not of the job: a network file system that is away, a wrong owner.
        _log.error("export_folder_unusable", export=export.public_id, cause=str(error))
        _postpone(turn, _UNUSABLE_SECONDS)


def _write(turn: Turn, export: Export) -> None:
    part = part_path(Path(turn.context.settings.download_dir), export.public_id, export.restarts)
    try:
        if export.is_written:
            _complete(turn, export, part)
        else:
            _require_space(turn)
            _write_chunks(turn, export, part)
    except _LostFileError:
        _log.error("export_file_lost", export=export.public_id, restarts=export.restarts)
        for path in (part, file_path(part.parent, export.public_id, Format(export.format))):
            path.unlink(missing_ok=True)
        if export.restarts >= RESTARTS_MAX:
            raise JobError("file_lost") from None
        _note(turn, Export.restarts == export.restarts, restarts=export.restarts + 1, **_UNWRITTEN)


def _read(turn: Turn) -> Export | None:
    """None if it has been cancelled, or has ended."""
    with turn.database.transaction(turn.workspace_id) as session:
        found = Export.within(turn.workspace_id).where(Export.id == turn.row, Export.state == JobState.RUNNING)
        return session.scalars(found).one_or_none()


def _note(turn: Turn, *conditions: ColumnElement[bool], **values: Any) -> bool:
    with turn.database.transaction(turn.workspace_id) as session:
        return note(session, Export, turn.row, *conditions, **values)


def _postpone(turn: Turn, seconds: float) -> None:
    with turn.database.transaction(turn.workspace_id) as session:
        postpone(session, Export, turn.row, seconds)


def _require_folder(turn: Turn) -> None:
    if not turn.context.settings.download_dir:
        raise FileNotFoundError(errno.ENOENT, "LARIBA_DOWNLOAD_DIR is not set for the worker")


def _require_space(turn: Turn) -> None:
    settings = turn.context.settings
    if shutil.disk_usage(settings.download_dir).free < _FREE_BYTES_MIN:
        raise OSError(errno.ENOSPC, "too little space is left on the disk")
    is_there = or_(Export.ended_at.is_(None), Export.expires_at > func.clock_timestamp())
    with turn.database.transaction(turn.workspace_id) as session:
        found = Export.within(turn.workspace_id).where(Export.archived_at.is_(None), is_there)
        size = session.execute(found.with_only_columns(func.sum(Export.bytes))).scalar_one()
    if (size or 0) > settings.download_bytes_max:
        raise JobError("quota_exceeded")


def _write_chunks(turn: Turn, before: Export, part: Path) -> None:
    with appending(part) as file:
        # Read behind the lock: the turn that had it before may have noted more.
        export = _read(turn) if file else None
        if file is None:
            _postpone(turn, _OVERTAKEN_SECONDS)
        elif export is None or export.restarts != before.restarts:
            part.unlink(missing_ok=True)
        elif not export.is_written:
            _append_chunks(turn, export, part, file)


def _append_chunks(turn: Turn, export: Export, part: Path, file: BinaryIO) -> None:
    if file.seek(0, 2) < export.bytes:
        raise _LostFileError
    file.truncate(export.bytes)
    file.seek(export.bytes)
    form, size, events, upper = Format(export.format), export.bytes, export.events, _reached(export)
    matches = Matches(
        project_row=export.project_id,
        node=bound(parse(export.q), KnownNames(**export.names)),
        begin=export.begins_at,
    )
    is_over = False
    while not is_over:
        began = time.monotonic()
        chunk = _next_chunk(turn, matches, upper)
        upper, events = chunk.upper, events + len(chunk.events)
        content = b"" if file.tell() else head(form)
        content += lines(chunk.events, form)
        if chunk.is_last:
            content += tail(events, form)
        noted, size = size, append(file, content)
        # Of two turns at once, where the file system knows no lock of another machine, the first to note it goes on.
        if not _note(
            turn,
            Export.restarts == export.restarts,
            Export.bytes == noted,
            reached_at=upper.received_at,
            reached_uid=upper.event_uid,
            bytes=size,
            events=events,
            is_written=chunk.is_last,
        ):
            part.unlink(missing_ok=True)
            return
        is_over = chunk.is_last or turn.is_over()
        time.sleep(_RESTS * (time.monotonic() - began))


def _next_chunk(turn: Turn, matches: Matches, upper: Key) -> Chunk:
    begin = partial(reading, turn.database, turn.workspace_id, EXPORT)
    with FewDays(begin) as transactions:
        return next_chunk(transactions, matches, upper, min(turn.ends_at, time.monotonic() + SECONDS_MAX))


def _reached(export: Export) -> Key:
    if export.reached_at is None or export.reached_uid is None:
        return Key.before(export.ends_at)
    return Key(export.reached_at, export.reached_uid)


def _complete(turn: Turn, export: Export, part: Path) -> None:
    final = file_path(part.parent, export.public_id, Format(export.format))
    name(part, final, export.bytes)
    if not final.exists() or final.stat().st_size != export.bytes:
        raise _LostFileError
    if (digest := sha256_of(final, turn.is_over)) is None:
        _note(turn)  # how far it has come is in this process
        return
    # If it has been cancelled meanwhile, the worker removes the file within a minute (purge.py).
    with turn.database.transaction(turn.workspace_id) as session:
        end(
            session,
            Export,
            turn.row,
            JobState.COMPLETED,
            sha256=digest,
            expires_at=func.clock_timestamp() + KEPT_FOR,
        )


def remove_part(session: Session, turn: Turn) -> None:
    """Give the space of an export that fails back at once. If it does not fail after all, it begins anew."""
    # If the folder cannot be used the job fails all the same, and the file goes later (purge.py).
    with suppress(OSError):
        _require_folder(turn)
        found = Export.within(turn.workspace_id).where(Export.id == turn.row)
        public_id, restarts = session.execute(found.with_only_columns(Export.public_id, Export.restarts)).one()
        part_path(Path(turn.context.settings.download_dir), public_id, restarts).unlink(missing_ok=True)
