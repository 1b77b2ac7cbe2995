"""VAR_DIR, the folder of a local run: one run at a time, and private to its owner."""

import fcntl
import os
import secrets
import shlex
import shutil
import stat
from pathlib import Path

from local import leftovers
from local.account import owner_name
from local.console import say
from local.errors import EmbeddedError
from local.guard import wait_until
from local.server import make_private_folder

# The guard of a killed run needs seconds to end the programs of that run.
_GUARD_SECONDS = 90.0
_RELEASE_SECONDS = 5.0
_SECRET_BYTES = 48
_GUARDS_LOCK = "lock.guard"


class VarDir:
    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.demo_env = self.path / "demo.env"

    def lock(self) -> int:
        """Lock the folder for the life of this process. Raises EmbeddedError if another run has it.

        Two locks distinguish a killed run from one that lives: the first is held by this process alone; the descriptor
        of the second is returned for the guard and all programs, which can outlive this process. After a killed run,
        this waits for its guard to end the programs, or ends them itself if the guard was killed too.
        """
        make_private_folder(self.path)
        self._require_ours()
        ours = self._open("lock")
        if not _takes(ours):
            holder = os.pread(ours, 20, 0).decode().strip()
            raise EmbeddedError(f"already running on {self.path} (pid {holder or 'not yet known'})")
        os.truncate(ours, 0)
        os.pwrite(ours, f"{os.getpid()}\n".encode(), 0)
        guards = self._open(_GUARDS_LOCK)
        if not _takes(guards):
            say("An earlier run was killed; waiting for its processes to end …")
            self._end_earlier_run(guards)
        return guards

    def _end_earlier_run(self, guards: int) -> None:
        file = self.path / _GUARDS_LOCK

        def is_without_guard() -> bool:
            left = leftovers.holders(file)
            return bool(left) and not leftovers.has_guard(left)

        wait_until(lambda: _takes(guards) or is_without_guard(), _GUARD_SECONDS)
        if not _takes(guards):
            leftovers.end(file)
        if not wait_until(lambda: _takes(guards), _RELEASE_SECONDS):
            raise EmbeddedError(f"processes of an earlier run on {self.path} do not end (`lsof {file}` names them)")

    def _require_ours(self) -> None:
        """The folder holds programs and secrets, so only its owner may be able to change it."""
        found = self.path.stat()
        if found.st_uid != os.geteuid():
            whose = f"{self.path} belongs to {owner_name(found.st_uid)}"
            raise EmbeddedError(f"{whose}: start as that user, or choose another folder with VAR_DIR")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise EmbeddedError(f"{self.path} can be changed by others: chmod go-w {shlex.quote(str(self.path))}")

    def folder(self, name: str) -> Path:
        make_private_folder(self.path / name)
        return self.path / name

    def empty_folder(self, name: str) -> Path:
        """A folder whose contents must not outlive a run. Needs the lock."""
        if (self.path / name).exists():
            shutil.rmtree(self.path / name)
        return self.folder(name)

    def secret_key(self) -> str:
        """Created at the first run and kept: every key and token has a checksum made with it."""
        path = self.path / "secret_key"
        if not path.exists():
            write_private(path, secrets.token_urlsafe(_SECRET_BYTES) + "\n")
        try:
            return path.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError:
            reason = "is not UTF-8 text: put back the file that was there, or start over without this folder"
            raise EmbeddedError(f"{path} {reason}") from None

    def _open(self, name: str) -> int:
        return os.open(self.path / name, os.O_RDWR | os.O_CREAT, 0o600)


def write_private(path: Path, text: str) -> None:
    """Written completely or not at all, and at no moment readable by others."""
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _takes(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
