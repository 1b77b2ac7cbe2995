"""`python -m local` as a person runs it: the whole product, from an empty folder."""

import http.client
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, LiteralString, NamedTuple
from urllib.parse import urlsplit

import psycopg
import pytest

from local import demo_env
from local.__main__ import read_port
from local.errors import EmbeddedError
from local.product import is_ready
from local.welcome import first_event
from tests.support.live import free_port
from tests.support.programs import CHECKOUT, Running, program_of, started
from tests.support.waiting import wait_until


class Shared(NamedTuple):
    var_dir: Path
    running: Running


@pytest.fixture(name="port")
def _port() -> int:
    return free_port()


@contextmanager
def run(var_dir: Path, port: int) -> Iterator[Running]:
    """A run that has said that it is ready, whatever settings its shell has for other things."""
    foreign = {"PGPORT": "1", "LARIBA_LOG_LEVEL": "no such level"}
    with started("-m", "local", VAR_DIR=str(var_dir), PORT=str(port), **foreign) as running:
        assert running.process.stdout is not None
        said = list(itertools.takewhile(lambda line: not line.startswith("Ctrl-C"), running.process.stdout))
        assert "Lariba is ready.\n" in said, running.process.communicate()
        running.said = "".join(said)
        running.family()
        yield running


@pytest.fixture(scope="module", name="shared")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """A run for all that only look."""
    var_dir = tmp_path_factory.mktemp("run") / "var"
    with run(var_dir, free_port()) as running:
        yield Shared(var_dir, running)


def refusal(var_dir: Path, port: str) -> str:
    """The one line that a run says which does not start."""
    ended = subprocess.run(
        [sys.executable, "-m", "local"],
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


def ask(known: dict[str, str], statement: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
    superuser_url = known["LARIBA_ADMIN_DATABASE_URL"].replace("lariba_owner@", "postgres@")
    with psycopg.connect(superuser_url) as connection:
        return connection.execute(statement, parameters).fetchall()


def shell(command: str) -> str:
    """What a command says that is pasted at the checkout's root."""
    ended = run_here("sh", "-c", command, MAKEFLAGS=f"VENV={sys.prefix}")
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def run_here(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], **variables}
    return subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)


def command_of(said: str, beginning: str) -> str:
    (line,) = (line for line in said.splitlines() if line.startswith(beginning))
    return line


@pytest.mark.slow
def test_the_first_event_outlives_a_killed_run_and_crashes_and_no_process_outlives_a_run(
    tmp_path: Path, port: int
) -> None:
    var_dir = tmp_path / "a b" / "var"
    with run(var_dir, port) as first:
        known = demo_env.read(var_dir / "demo.env")
        assert (var_dir / "demo.env").stat().st_mode & 0o777 == 0o600
        curl = first_event(known["LARIBA_URL"], known["LARIBA_SOURCE_KEY"])
        assert curl in first.said
        status, receipt = send(curl)
        assert status == 201
        assert json.loads(receipt) == {"accepted": True, "event_id": "evt_demo_001", "status": "stored"}
        assert refusal(var_dir, str(port)) == f"lariba: already running on {var_dir} (pid {first.process.pid})\n"
        first.family()
        first.process.kill()

    with run(var_dir, port) as second:
        assert first.nothing_is_left()
        assert demo_env.read(var_dir / "demo.env") == known
        assert "1 event is stored." in second.said
        assert "evt_demo_001" not in second.said
        assert "evt_demo_001" in shell(command_of(second.said, "curl -sG"))
        for part in ("postgres -D", "granian", "celery"):
            second.crash(part)
        crashed_at = datetime.now(UTC)
        wait_until(lambda: is_ready(port), 60)
        assert send(curl) == (201, receipt)
        assert ask(known, "SELECT count(*) FROM events") == [(1,)]
        answered = "SELECT succeeded_at FROM maintenance_tasks WHERE name = 'canary' AND succeeded_at > %s"
        wait_until(lambda: ask(known, answered, crashed_at), 60)
        second.family()

        second.process.terminate()

        assert second.process.wait(60) == 0
        assert second.nothing_is_left()


@pytest.mark.slow
def test_a_folder_of_before_the_first_release_is_one_clear_line_that_says_what_to_remove(
    tmp_path: Path, port: int
) -> None:
    var_dir = tmp_path / "var"
    with run(var_dir, port) as first:
        known = demo_env.read(var_dir / "demo.env")
        ask(known, "UPDATE alembic_version SET version_num = '0003' RETURNING 1")
        first.process.terminate()
        assert first.process.wait(60) == 0

    ended = run_here(sys.executable, "-m", "local", VAR_DIR=str(var_dir), PORT=str(port))

    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "the schema is at 0003, which a checkout before the first release made" in line
    assert f"a new one is made once {var_dir} is removed" in line


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


@pytest.mark.slow
def test_what_is_left_when_supervisor_and_guard_are_killed_is_ended_by_the_next_run(tmp_path: Path, port: int) -> None:
    """It would share the data with it, behind another port."""
    with run(tmp_path / "var", port) as first:
        known = demo_env.read(tmp_path / "var" / "demo.env")
        assert send(first_event(known["LARIBA_URL"], known["LARIBA_SOURCE_KEY"]))[0] == 201
        first.family()
        guard = first.member("lariba-guard")
        first.process.send_signal(signal.SIGSTOP)  # or it would replace the guard
        guard.kill()
        first.process.kill()
        first.process.wait()
        assert is_ready(port)

        with run(tmp_path / "var", free_port()) as second:
            assert first.nothing_is_left()
            assert not is_ready(port)
            assert "1 event is stored." in second.said


def test_a_run_takes_six_processes_of_python(shared: Shared) -> None:
    """The supervisor, its guard, the web server with two children, and a worker with beat inside."""
    shared.running.member("celery")
    known = demo_env.read(shared.var_dir / "demo.env")

    # Meanwhile one of PostgreSQL's may be forked or may end.
    wait_until(lambda: [program_of(one).startswith("python") for one in shared.running.family()].count(True) == 5)
    wait_until(lambda: ask(known, "SELECT name FROM maintenance_tasks"), 60)
    # A file of beat's could break, or remember a time that is yet to come.
    assert list(CHECKOUT.glob("celerybeat*")) == []


def test_the_readmes_commands_and_programs_do_what_they_say(shared: Shared) -> None:
    readme = (CHECKOUT / "README.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)

    sent = run_here(sys.executable, "-c", program, **demo_env.read(shared.var_dir / "demo.env"))
    assert (sent.returncode, sent.stderr) == (0, "")
    assert sent.stdout.startswith("201 {'accepted': True")

    known = demo_env.read(shared.var_dir / "demo.env")
    search = readme[readme.index("curl -sG") :].partition("```")[0]
    found = subprocess.run(["sh", "-c", search], env={**os.environ, **known}, capture_output=True, check=True).stdout
    assert {event["payload"]["amount"] for event in json.loads(found)["data"]} == {49.99}

    look = command_of(readme, "make -s psql").replace("psql", f"psql VAR_DIR='{shared.var_dir}'", 1)
    assert "payment.failed" in shell(look)
    assert shell(f"make -s flask VAR_DIR='{shared.var_dir}' ARGS=--help").startswith("Usage: flask")
    assert "Demo" in shell(f"make -s flask VAR_DIR='{shared.var_dir}' ARGS='workspace list'")


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_readmes_javascript_sends_an_event(shared: Shared) -> None:
    (program,) = re.findall(r"```js\n(.*?)```", (CHECKOUT / "README.md").read_text(), re.DOTALL)

    sent = run_here("node", "-e", program, **demo_env.read(shared.var_dir / "demo.env"))

    assert sent.returncode == 0, sent.stderr
    assert sent.stdout.startswith("201 {")
    assert "accepted: true" in sent.stdout


def test_the_help_of_the_operators_commands_needs_no_settings_and_the_commands_name_what_is_missing() -> None:
    helped = run_here(sys.executable, "-m", "flask", "--app", "wsgi", "--help")
    refused = run_here(sys.executable, "-m", "flask", "--app", "wsgi", "status")

    assert (helped.returncode, helped.stderr) == (0, "")
    assert "Create, list, suspend" in helped.stdout
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "Error: LARIBA_DATABASE_URL is missing; docs/settings.md says what it holds\n"


def test_a_secret_that_is_no_text_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "secret_key").write_bytes(b"\xff\xfe")

    assert refusal(tmp_path, str(free_port())).startswith(f"lariba: {tmp_path}/secret_key is not UTF-8 text")
