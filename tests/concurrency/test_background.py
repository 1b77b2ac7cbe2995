"""A step that is repeated on a thread: for as long as its owner lives, and whatever it raises."""

import gc
import threading

import pytest

from app.concurrency import background
from app.concurrency.background import Background
from tests.support.waiting import wait_until


class _Owner:
    def __init__(self, name: str = "tried", *, pause_seconds: float = 0.001, failures: int = 0) -> None:
        self.steps = 0
        self._failures = failures
        self.background = Background(self.step, name=name, pause_seconds=pause_seconds, pause_seconds_min=0.001)

    def step(self) -> None:
        self.steps += 1
        if self.steps <= self._failures:
            raise ValueError


def _threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_it_is_started_once_and_ends_with_its_owner() -> None:
    owners = [_Owner("tried once")]
    assert [owners[0].background.start(), owners[0].background.start()] == [True, False]
    wait_until(lambda: owners[0].steps >= 3)
    assert len(_threads("tried once")) == 1

    owners.clear()
    gc.collect()
    wait_until(lambda: not _threads("tried once"))


def test_a_step_that_fails_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_PAUSE_AFTER_FAILURE_SECONDS", 0.001)
    owner = _Owner(failures=2)
    owner.background.start()

    assert wait_until(lambda: owner.steps >= 3)


def test_a_hurried_step_does_not_wait_for_its_pause() -> None:
    owner = _Owner(pause_seconds=3_600.0)
    owner.background.start()
    wait_until(lambda: owner.steps == 1)
    owner.background.hurry()

    assert wait_until(lambda: owner.steps == 2)


def test_one_step_that_computes_for_long_delays_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The garbage collector may do its work in any step."""
    owner = _Owner("tried with garbage")
    computed = {2: 1_000.0}

    def thread_time() -> float:
        is_ours = threading.current_thread().name == "tried with garbage"
        return sum(seconds for step, seconds in computed.items() if is_ours and step <= owner.steps)

    monkeypatch.setattr(background.time, "thread_time", thread_time)  # type: ignore[attr-defined]
    owner.background.start()

    assert wait_until(lambda: owner.steps >= 4)


def test_a_machine_without_threads_gets_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    owner = _Owner()
    with monkeypatch.context() as machine:
        machine.setattr(threading.Thread, "start", refuse)
        assert not owner.background.start()

    assert owner.background.start()
    wait_until(lambda: owner.steps > 0)
