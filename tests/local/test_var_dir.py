import os
import subprocess
from pathlib import Path

import pytest

from local import demo_env
from local.errors import EmbeddedError
from local.var_dir import VarDir, write_private
from local.welcome import first_event

VALUES = {
    "LARIBA_SOURCE_ID": "src_demo",
    "LARIBA_DATABASE_URL": "postgresql://lariba_app@/lariba?host=/tmp/a%20b%2Bc",
    "LARIBA_ODD": "a 'b' $(c) \"d\"",
}


def test_the_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    secret = VarDir(tmp_path).secret_key()

    assert len(secret) == 64
    assert VarDir(tmp_path).secret_key() == secret
    assert (tmp_path / "secret_key").stat().st_mode & 0o777 == 0o600


def test_the_folder_is_private_and_an_existing_one_keeps_its_permissions(tmp_path: Path) -> None:
    assert VarDir(tmp_path / "new").folder("log").stat().st_mode & 0o777 == 0o700
    (tmp_path / "old").mkdir()
    (tmp_path / "old").chmod(0o750)

    VarDir(tmp_path / "old").folder("log")

    assert (tmp_path / "old").stat().st_mode & 0o777 == 0o750


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who owns it can change what is executed there, and read the keys."""
    another = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: another)

    with pytest.raises(EmbeddedError, match=f"^{tmp_path} belongs to .*: start as that user, or choose another folder"):
        VarDir(tmp_path).lock()


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_folder_that_others_can_change_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)

    with pytest.raises(EmbeddedError, match=f"can be changed by others: chmod go-w {tmp_path}"):
        VarDir(tmp_path).lock()


def test_demo_env_is_private_even_where_it_was_open_before(tmp_path: Path) -> None:
    path = tmp_path / "demo.env"
    path.write_text("")
    path.chmod(0o644)

    demo_env.write(path, VALUES)

    assert path.stat().st_mode & 0o777 == 0o600


def test_a_shell_and_a_reader_of_lines_and_the_next_run_find_the_same_values(tmp_path: Path) -> None:
    path = tmp_path / "demo.env"

    demo_env.write(path, VALUES)

    shell = f'. "{path}"; printf "%s\\n" "$LARIBA_SOURCE_ID" "$LARIBA_DATABASE_URL" "$LARIBA_ODD"'
    said = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == list(VALUES.values())
    assert demo_env.read(path) == VALUES
    assert f"LARIBA_DATABASE_URL={VALUES['LARIBA_DATABASE_URL']}" in path.read_text().splitlines()


@pytest.mark.parametrize("spoilt", [None, b"", b"LARIBA_SOURCE_KEY='half", b"\xff\x00", b"no variable"])
def test_without_a_sound_file_of_an_earlier_run_nothing_is_known(tmp_path: Path, spoilt: bytes | None) -> None:
    if spoilt is not None:
        (tmp_path / "demo.env").write_bytes(spoilt)

    assert demo_env.read(tmp_path / "demo.env") == {}


def test_a_write_cut_short_does_not_hinder_the_next(tmp_path: Path) -> None:
    (tmp_path / ".secret_key.draft").write_text("half")

    write_private(tmp_path / "secret_key", "whole")

    assert (tmp_path / "secret_key").read_text() == "whole"


def test_the_printed_command_is_the_public_example_to_the_letter() -> None:
    command = first_event("https://api.laribacloud.com", "YOUR_SOURCE_API_KEY")

    assert command == PUBLIC_EXAMPLE


PUBLIC_EXAMPLE = """\
curl -X POST "https://api.laribacloud.com/v1/events/ingest" \\
  -H "Content-Type: application/json" \\
  -H "X-API-Key: YOUR_SOURCE_API_KEY" \\
  -H "Idempotency-Key: demo-request-001" \\
  -d '{
    "event_id": "evt_demo_001",
    "event_type": "payment.failed",
    "source_id": "src_demo",
    "environment": "production",
    "severity": "critical",
    "timestamp": "2026-06-01T10:00:00Z",
    "payload": {
      "amount": 49.99,
      "currency": "EUR",
      "reason": "card_declined"
    }
  }'"""
