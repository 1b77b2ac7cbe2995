"""The folder of a server's Unix socket: the server's own, or a private one with a short path.

It trusts nothing that it finds in the system's temporary directory, and widens no folder's mode.
"""

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from local.account import owner_name
from local.errors import EmbeddedError
from local.program import Account

# sockaddr_un holds 108 bytes on Linux and 104 on macOS, a closing NUL included; one limit for both.
_PATH_BYTES_MAX = 103


def is_usable(path: Path) -> bool:
    """Whether every client can use this socket path: short, and without the separators of libpq's lists."""
    text = str(path)
    return len(os.fsencode(path)) <= _PATH_BYTES_MAX and text.isprintable() and not set(text) & set(',"')


def socket_directory(home: Path, socket_name: str, account: Account | None = None) -> Path:
    """`home` if its path is usable; else a private folder in the system's temporary directory.

    The name of that folder is a digest of `home`, so it is the same at every start.
    """
    if is_usable(home / socket_name):
        return home
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    for parent in (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")):  # noqa: S108 - ownership is proven
        directory = parent / f"lariba-{digest}"
        if is_usable(directory / socket_name) and (account is None or may_be_entered(parent)):
            _make_private(directory, account)
            return directory
    raise EmbeddedError(f"no folder for a Unix socket: {home} is too long and so is {tempfile.gettempdir()}")


def may_be_entered(directory: Path) -> bool:
    """Whether every user, such as the dedicated account, can traverse `directory` and its parents."""
    return all(step.stat().st_mode & stat.S_IXOTH for step in (directory.resolve(), *directory.resolve().parents))


def remove_if_spare(directory: Path, home: Path) -> None:
    """After a stop, remove a folder that socket_directory() has made."""
    if directory != home:
        shutil.rmtree(directory, ignore_errors=True)


def _make_private(directory: Path, account: Account | None) -> None:
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    # Every user may create names in the temporary directory. An existing one is trusted only if it is a real folder,
    # belongs to this user or the account, and is private.
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise EmbeddedError(f"{directory} is not a folder: remove it, the socket must lie there")
    if found.st_uid not in {os.geteuid(), account.uid if account else os.geteuid()}:
        raise EmbeddedError(f"{directory} belongs to {owner_name(found.st_uid)}: the socket will not lie there")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise EmbeddedError(f"{directory} is open to other users: remove it, the socket must lie in a private folder")
    if account and found.st_uid != account.uid:
        os.chown(directory, account.uid, account.gid, follow_symlinks=False)
