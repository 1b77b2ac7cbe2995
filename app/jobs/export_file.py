"""Writes the file of one export: appended piece by piece, each flushed, and hashed when all is in it."""

import fcntl
import gzip
import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

_FILE_MODE: Final = 0o600
_GZIP_LEVEL: Final = 6
_PIECE_BYTES: Final = 1_048_576
_HASHES_MAX: Final = 64


class _State(NamedTuple):
    path: Path
    inode: int
    size: int
    changed: int


# How far this process has come with the hash of a file: a turn is shorter than a large file takes, and a hash cannot be
# stored. With several processes each gets further in its own turns, so one of them comes to the end.
_hashes: Final[OrderedDict[_State, tuple[Any, int]]] = OrderedDict()


@contextmanager
def appending(path: Path) -> Iterator[BinaryIO | None]:
    """The file, made if it is not there; None if another turn has it open.

    Two turns of one export can be under way only if a run has lost its task lock. They would write over each other.
    """
    with open(path, "r+b", opener=_open_private) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield file


def append(file: BinaryIO, content: bytes) -> int:
    """Write `content` as a further gzip member, and flush it to the disk; returns where the file ends."""
    if content:
        file.write(gzip.compress(content, _GZIP_LEVEL, mtime=0))
        file.flush()
        os.fsync(file.fileno())
    return file.tell()


def name(part: Path, final: Path, size: int) -> None:
    """Give a file that is complete its name. Safe to repeat; nothing is done with a part of another size."""
    if part.exists() and part.stat().st_size == size:
        part.rename(final)
    descriptor = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path, is_over: Callable[[], bool]) -> str | None:
    """The hash of a file that does not change any more; None if time was over, and the next call goes on."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        state = _State(path, status.st_ino, status.st_size, status.st_mtime_ns)
        # Taken out while it is used: two threads would spoil it.
        hashed, offset = _hashes.pop(state, None) or (hashlib.sha256(), 0)
        file.seek(offset)
        while piece := file.read(_PIECE_BYTES):
            hashed.update(piece)
            if is_over():
                _hashes[state] = hashed, file.tell()
                while len(_hashes) > _HASHES_MAX:
                    _hashes.popitem(last=False)
                return None
        return str(hashed.hexdigest())


def _open_private(path: str, flags: int) -> int:
    """Readable for this user only, whatever the umask."""
    descriptor = os.open(path, flags | os.O_CREAT, _FILE_MODE)
    os.fchmod(descriptor, _FILE_MODE)
    return descriptor
