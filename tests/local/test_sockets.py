import os
import tempfile
from pathlib import Path

import pytest

from local.errors import EmbeddedError
from local.program import Account
from local.sockets import remove_if_spare, socket_directory

DEEP = Path("/" + "deep/" * 30)


@pytest.fixture(name="spare")
def _spare(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the socket of DEEP goes, in a temporary directory of this test's own; not made yet."""
    monkeypatch.setattr(tempfile, "tempdir", str(short_folder))
    directory = socket_directory(DEEP, "a.sock")
    directory.rmdir()
    return directory


def test_a_short_folder_holds_its_own_socket() -> None:
    assert socket_directory(Path("/var/a b"), "a.sock") == Path("/var/a b")


@pytest.mark.parametrize("home", [DEEP, Path("/a,b"), Path('/a"b'), Path("/a\nb"), Path(os.fsdecode(b"/a\xff"))])
def test_a_path_that_no_client_can_use_gets_a_private_folder(spare: Path, home: Path) -> None:
    directory = socket_directory(home, "a.sock")

    assert directory.parent == spare.parent
    assert directory.stat().st_mode & 0o777 == 0o700


def test_the_folder_is_the_same_at_every_start_and_goes_with_what_a_killed_server_left(spare: Path) -> None:
    assert socket_directory(DEEP, "a.sock") == socket_directory(DEEP, "a.sock") == spare
    (spare / "a.sock").touch()

    remove_if_spare(spare, DEEP)

    assert not spare.exists()


def test_a_servers_own_folder_is_never_removed(short_folder: Path) -> None:
    remove_if_spare(short_folder, short_folder)

    assert short_folder.exists()


def test_a_folder_of_another_user_is_refused(spare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spare.mkdir(mode=0o700)
    other_user = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other_user)

    with pytest.raises(EmbeddedError, match=f"{spare} belongs to "):
        socket_directory(DEEP, "a.sock")


def test_a_link_to_somewhere_else_is_refused(spare: Path, tmp_path: Path) -> None:
    spare.symlink_to(tmp_path)

    with pytest.raises(EmbeddedError, match="is not a folder"):
        socket_directory(DEEP, "a.sock")


def test_a_folder_open_to_others_is_refused(spare: Path) -> None:
    spare.mkdir()
    spare.chmod(0o755)

    with pytest.raises(EmbeddedError, match="is open to other users"):
        socket_directory(DEEP, "a.sock")


def test_a_temporary_directory_that_the_servers_account_cannot_enter_is_passed_over(spare: Path) -> None:
    me = Account(name="me", uid=os.geteuid(), gid=os.getegid())

    directory = socket_directory(DEEP, "a.sock", me)

    assert directory.parent != spare.parent
    directory.rmdir()
