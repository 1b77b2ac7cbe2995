"""Values of prometheus_client in files whose disk space is reserved before they are mapped into memory.

The library extends its files sparsely and maps them. When the disk is full, the first write to such a page raises
SIGBUS, which ends the process. Here the space is allocated first; where that fails, the process stops counting and logs
it once. Events are stored all the same.
"""

import errno
import os
from collections.abc import Callable
from typing import Any, Final

import structlog
from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

_log = structlog.get_logger()

_DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# The library's first size of a file; it doubles a full one.
_FIRST_BYTES: Final = 1 << 16
# An entry without its key: two numbers, its length, and padding.
_ENTRY_BYTES: Final = 64

_is_off = False


def is_disk_full(error: OSError) -> bool:
    """Whether the disk, or this user's quota of it, is full."""
    return error.errno in _DISK_FULL


def switch_off(error: OSError) -> None:
    """Stop counting in this process, and log the reason."""
    global _is_off  # noqa: PLW0603 - of the process, as the values are
    if not _is_off:
        _is_off = True
        _log.error("metrics_switched_off", reason=f"no room in LARIBA_METRICS_DIR: {error.strerror}")


def value_class(number: Callable[[], int]) -> type:
    """The replacement of prometheus_client.values.ValueClass for the process whose slot is `number()`."""
    values.MmapedDict = _ReservedFile  # type: ignore[attr-defined]

    class Value(_Value):
        _map = staticmethod(values.MultiProcessValue(number))

    return Value


class _Value:
    """A number in a file; does nothing after the disk was full."""

    _multiprocess = True
    _map: Callable[..., Any]

    def __init__(self, *description: Any, **more: Any) -> None:
        try:
            self._mapped = self._map(*description, **more)
        except OSError as error:
            switch_off(error)

    def inc(self, amount: float) -> None:
        self._write("inc", amount)

    def set(self, value: float, timestamp: float | None = None) -> None:
        self._write("set", value, timestamp)

    def _write(self, method: str, *arguments: float | None) -> None:
        if not _is_off:
            try:
                getattr(self._mapped, method)(*arguments)
            except OSError as error:  # a forked child opens its own files at its first count
                switch_off(error)

    def get(self) -> float:
        return 0.0 if _is_off else float(self._mapped.get())

    def set_exemplar(self, _exemplar: object) -> None:
        """The files hold none."""

    def get_exemplar(self) -> None:
        """The files hold none."""


class _ReservedFile(MmapedDict):
    """The library's file; raises OSError if the disk has no space for what it is about to map."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:  # noqa: FBT001, FBT002 - the library's own
        if not read_mode:
            _reserve(filename, _FIRST_BYTES)
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        if self._used + len(key.encode()) + _ENTRY_BYTES > self._capacity:
            _reserve(self._fname, self._capacity * 2)
        super()._init_value(key)  # type: ignore[no-untyped-call]


def _reserve(path: str, size: int) -> None:
    """Extend the file to `size` bytes, if it is shorter, with disk space allocated for all of them."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        size = max(size, os.fstat(descriptor).st_size)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
        else:  # macOS cannot allocate; a write can still fail there
            os.truncate(descriptor, size)
    finally:
        os.close(descriptor)
