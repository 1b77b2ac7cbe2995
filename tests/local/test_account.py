import os
import pwd
import sys
from pathlib import Path

import pytest

from local import account
from local.account import database_account
from local.errors import EmbeddedError


@pytest.fixture(name="user_database")
def _user_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which `useradd` makes users, as root sees it on Linux."""

    def look_up(name: str) -> pwd.struct_passwd:
        if not (tmp_path / name).exists():
            raise KeyError(name)
        return pwd.struct_passwd((name, "x", 4242, 4242, "", "/nonexistent", "/usr/sbin/nologin"))

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(pwd, "getpwnam", look_up)
    monkeypatch.setattr(account, "_LOCKED_SECONDS", 1.0)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def _install_useradd(folder: Path, script: str) -> None:
    useradd = folder / "useradd"
    useradd.write_text(f"#!/bin/sh\ncd {folder}\n{script}\n")
    useradd.chmod(0o700)


@pytest.mark.slow
def test_a_user_database_that_another_program_locks_is_waited_for(user_database: Path) -> None:
    """As of two first runs at once."""
    locked = 'echo "useradd: cannot lock /etc/passwd; try again later." >&2; exit 1'
    _install_useradd(user_database, f"[ -e tried ] || {{ touch tried; {locked}; }}; touch lariba-postgres")

    found = database_account()

    assert found is not None
    assert found.uid == 4242


@pytest.mark.slow
def test_a_user_that_cannot_be_made_is_refused_with_the_reason(user_database: Path) -> None:
    _install_useradd(user_database, 'echo "useradd: cannot open /etc/passwd" >&2; exit 1')

    with pytest.raises(EmbeddedError, match=r"start as an ordinary user \(useradd: useradd: cannot open /etc/passwd\)"):
        database_account()
