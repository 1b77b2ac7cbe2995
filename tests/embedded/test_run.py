"""`python -m app.embedded` as a person runs it: the whole product, from an empty folder."""

import http.client
import json
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from app.embedded import demo_env
from app.embedded.__main__ import read_port
from app.embedded.errors import EmbeddedError
from app.embedded.product import is_ready
from app.embedded.welcome import first_event
from tests.embedded.conftest import CHECKOUT, Running, started
from tests.waiting import wait_until


@pytest.fixture(name="port")
def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


@contextmanager
def run(var_dir: Path, port: int) -> Iterator[Running]:
    """A run that has said that it is ready, whatever settings its shell has for other things."""
    foreign = {"PGPORT": "1", "LARIBA_LOG_LEVEL": "no such level"}
    with started("-m", "app.embedded", VAR_DIR=str(var_dir), PORT=str(port), **foreign) as running:
        assert running.process.stdout is not None
        is_ready_at_last = "Lariba is ready.\n" in iter(running.process.stdout.readline, "")
        assert is_ready_at_last, running.process.communicate()
        running.family()
        yield running


def refusal(var_dir: Path, port: str) -> str:
    """The one line that a run says which does not start."""
    ended = subprocess.run(
        [sys.executable, "-m", "app.embedded"],
        cwd=CHECKOUT,
        env={"VAR_DIR": str(var_dir), "PORT": port},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    return ended.stderr


def send(command: str) -> tuple[int, bytes]:
    """Do what a printed curl command says; a bare machine has no curl."""
    words = shlex.split(command)
    headers = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
    url = urlsplit(words[3])
    connection = http.client.HTTPConnection(url.netloc, timeout=30)
    try:
        connection.request(words[2], url.path, body=words[words.index("-d") + 1], headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def stored_events(known: dict[str, str]) -> int:
    superuser_url = known["LARIBA_ADMIN_DATABASE_URL"].replace("lariba_owner@", "postgres@")
    with psycopg.connect(superuser_url) as connection:
        row = connection.execute("SELECT count(*) FROM events").fetchone()
    assert row is not None
    count: int = row[0]
    return count


def test_the_first_event_outlives_a_killed_run_and_crashes_and_no_process_outlives_a_run(
    tmp_path: Path, port: int
) -> None:
    var_dir = tmp_path / "a b" / "var"
    with run(var_dir, port) as first:
        known = demo_env.read(var_dir / "demo.env")
        assert (var_dir / "demo.env").stat().st_mode & 0o777 == 0o600
        curl = first_event(known["LARIBA_URL"], known["LARIBA_SOURCE_KEY"])
        status, receipt = send(curl)
        assert status == 201
        assert json.loads(receipt) == {"accepted": True, "event_id": "evt_demo_001", "status": "stored"}
        assert refusal(var_dir, str(port)) == f"lariba: already running on {var_dir} (pid {first.process.pid})\n"
        first.family()
        first.process.kill()

    with run(var_dir, port) as second:
        assert first.nothing_is_left()
        assert demo_env.read(var_dir / "demo.env") == known
        for part in ("postgres -D", "granian"):
            second.crash(part)
        wait_until(lambda: is_ready(port), 60)
        assert send(curl) == (201, receipt)
        assert stored_events(known) == 1
        wait_until(lambda: "succeeded" in (var_dir / "log" / "worker.log").read_text(), 60)
        second.family()

        second.process.terminate()

        assert second.process.wait(60) == 0
        assert second.nothing_is_left()


def test_a_port_in_use_is_one_clear_line_and_nothing_is_started(tmp_path: Path) -> None:
    with socket.socket() as occupier:
        occupier.bind(("127.0.0.1", 0))
        occupier.listen()
        port = str(occupier.getsockname()[1])

        assert refusal(tmp_path, port).startswith(f"lariba: port {port} on 127.0.0.1 cannot be used")

    assert not (tmp_path / "postgres").exists()


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1", " 80", "٣"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    with pytest.raises(EmbeddedError, match="PORT must be a whole number from 1 to 65535"):
        read_port(port)


def test_a_folder_that_is_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "var").touch()

    assert str(tmp_path / "var") in refusal(tmp_path / "var", "8000")
