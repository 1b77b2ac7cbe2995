"""Resets what a forked child must not share with its parent: locks, queues, counts, connections."""

import os
import weakref
from collections.abc import Callable
from typing import TypeVar

Owner = TypeVar("Owner")


def reset_after_fork(owner: Owner, reset: Callable[[Owner], object]) -> None:
    """Call `reset(owner)` in every forked child, as long as `owner` lives.

    A child has its parent's variables and none of its threads: a lock that another thread held stays locked, and a
    thread that counts as running does not exist. A hook cannot be removed, so it holds `owner` weakly; `reset` must be
    a plain function, because a bound method would hold it.
    """
    reference = weakref.ref(owner)

    def call() -> None:
        if (found := reference()) is not None:
            reset(found)

    os.register_at_fork(after_in_child=call)
