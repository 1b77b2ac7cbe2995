import errno
import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from local.errors import EmbeddedError
from local.logs import keep_short
from local.program import Program
from local.supervisor import Supervisor
from tests.support.programs import Running, lives, started
from tests.support.waiting import wait_until

SLEEPS = "import time; time.sleep(600)"
IGNORES_SIGTERM = "import signal, time; signal.signal(15, signal.SIG_IGN); open('deaf', 'w'); time.sleep(600)"
DIES = "print('I cannot go on'); raise SystemExit(3)"
# A program with a worker of its own in its process group, as granian and Celery are.
# Its numbers are sums, so that each is to be found on one command line only.
HAS_A_WORKER = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({600 + 1})"])
time.sleep(602)
"""
NOTES_ITS_END = """
import signal, sys, time
def end(*_):
    open("ends", "a").write({name!r})
    sys.exit()
signal.signal(15, end)
open({name!r}, "w")
time.sleep(600)
"""

Supervise = Callable[..., AbstractContextManager[Running]]


@pytest.fixture(name="supervise")
def _supervise(tmp_path: Path) -> Supervise:
    @contextmanager
    def supervise(*, stop_seconds: float = 600, **codes: str) -> Iterator[Running]:
        arguments = (str(tmp_path), json.dumps(codes), str(stop_seconds))
        with started("-m", "tests.support.supervised", *arguments) as running:
            assert running.process.stdout is not None
            assert running.process.stdout.readline() == "watching\n"
            yield running

    return supervise


def test_sigterm_stops_everything_and_is_no_failure(supervise: Supervise) -> None:
    with supervise(one=SLEEPS, two=HAS_A_WORKER) as running:
        running.member("601")

        running.process.terminate()

        assert running.process.wait(60) == 0
        assert running.nothing_is_left()


def test_programs_stop_in_the_reverse_order_of_their_start(supervise: Supervise, tmp_path: Path) -> None:
    with supervise(**{name: NOTES_ITS_END.format(name=name) for name in "abc"}) as running:
        wait_until(lambda: all((tmp_path / name).exists() for name in "abc"))

        running.process.terminate()

        assert running.process.wait(60) == 0
        assert (tmp_path / "ends").read_text() == "cba"


def test_a_program_deaf_to_sigterm_is_killed_in_the_end(supervise: Supervise, tmp_path: Path) -> None:
    with supervise(stop_seconds=0.1, deaf=IGNORES_SIGTERM) as running:
        wait_until((tmp_path / "deaf").exists)
        running.family()

        running.process.terminate()

        assert running.process.wait(60) == 0
        assert running.nothing_is_left()


def test_a_second_signal_kills_at_once(supervise: Supervise, tmp_path: Path) -> None:
    with supervise(stop_seconds=600, deaf=IGNORES_SIGTERM) as running:
        wait_until((tmp_path / "deaf").exists)
        running.family()
        running.process.send_signal(signal.SIGINT)
        assert running.process.stdout is not None
        assert running.process.stdout.readline() == "Stopping deaf …\n"

        running.process.send_signal(signal.SIGINT)

        assert running.process.wait(60) == 0
        assert running.nothing_is_left()


def test_sigkill_of_the_supervisor_leaves_no_process_and_no_grandchild(supervise: Supervise) -> None:
    with supervise(one=SLEEPS, two=HAS_A_WORKER) as running:
        running.member("601")

        running.process.kill()

        wait_until(running.nothing_is_left)


def test_a_killed_guard_is_replaced_and_gets_the_groups_of_the_old_one(supervise: Supervise) -> None:
    with supervise(two=HAS_A_WORKER) as running:
        running.member("601")
        running.crash("lariba-guard")

        running.process.kill()

        wait_until(running.nothing_is_left)


def test_a_crashed_program_is_restarted_after_its_whole_group_is_gone(supervise: Supervise) -> None:
    with supervise(two=HAS_A_WORKER) as running:
        worker = running.member("601")

        running.crash("602")

        assert not lives(worker)


def test_a_crash_loop_stops_everything_and_names_program_and_log(supervise: Supervise, tmp_path: Path) -> None:
    with supervise(sound=SLEEPS, frail=DIES) as running:
        running.family()

        _, said = running.process.communicate(timeout=60)

        assert running.process.returncode == 1
        assert said.startswith("frail ended with exit code 3, the 6th time in a minute")
        assert str(tmp_path / "frail.log") in said
        assert "I cannot go on" in said
        assert running.nothing_is_left()


def test_a_program_that_dies_before_all_is_ready_ends_the_run_at_once(tmp_path: Path) -> None:
    frail = Program(
        name="frail",
        command=(sys.executable, "-c", DIES),
        directory=tmp_path,
        log=tmp_path / "frail.log",
        environment={},
    )

    with Supervisor() as supervisor:
        supervisor.start(frail)
        with pytest.raises(EmbeddedError, match="frail ended with exit code 3 before"):
            supervisor.wait_for(lambda: False, frail)


def test_a_program_that_cannot_be_executed_is_named(tmp_path: Path) -> None:
    missing = Program(
        name="missing",
        command=("/nowhere/missing",),
        directory=tmp_path,
        log=tmp_path / "missing.log",
        environment={},
    )

    with Supervisor() as supervisor, pytest.raises(EmbeddedError, match="missing ended with exit code 127"):
        supervisor.run(missing)


def test_under_nohup_a_closed_terminal_ends_nothing(supervise: Supervise, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with supervise(one=NOTES_ITS_END.format(name="one")) as running:
            running.process.send_signal(signal.SIGHUP)
            wait_until((tmp_path / "one").exists)

            running.process.terminate()

            assert running.process.wait(60) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_long_log_is_moved_aside_under_its_writer_and_the_oldest_goes(tmp_path: Path) -> None:
    log = tmp_path / "one.log"
    with log.open("a") as writer:
        for text in ("first", "second", "third", "fourth", "fifth"):
            writer.write(text)
            writer.flush()
            keep_short(log, bytes_max=4)
        writer.write("end")

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "one.log": "end",
        "one.log.1": "fifth",
        "one.log.2": "fourth",
        "one.log.3": "third",
    }


def test_a_log_that_cannot_be_moved_aside_is_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full: of all programs the one that watches must go on."""

    def fail(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    log = tmp_path / "one.log"
    log.write_text("long" * 10)
    monkeypatch.setattr(shutil, "copyfile", fail)

    keep_short(log, bytes_max=20)

    assert log.read_text() == ""
