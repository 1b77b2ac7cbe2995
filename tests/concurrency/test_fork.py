"""What a forked child does not share with its parent."""

import gc
import os
import re
import weakref
from pathlib import Path

import pytest

from app.concurrency.fork import reset_after_fork

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


class _Counter:
    def __init__(self) -> None:
        self.count = 1
        reset_after_fork(self, _Counter.reset)

    def reset(self) -> None:
        self.count = 0


def _exit_code_of_child(counter: _Counter) -> int:
    child = os.fork()
    if child == 0:
        os._exit(counter.count)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_begins_anew_and_its_parent_goes_on() -> None:
    counter = _Counter()

    assert _exit_code_of_child(counter) == 0
    assert counter.count == 1


def test_the_hook_keeps_no_owner_alive() -> None:
    counter = _Counter()
    reference = weakref.ref(counter)
    del counter
    gc.collect()

    assert reference() is None
    assert _exit_code_of_child(_Counter()) == 0  # the hook of the collected one does nothing


def test_no_other_module_registers_a_fork_hook(checkout: Path) -> None:
    names = re.compile(r"register_at_fork|register_after_fork")
    guilty = {path.name for path in (checkout / "app").rglob("*.py") if names.search(path.read_text())}

    assert guilty == {"fork.py"}
