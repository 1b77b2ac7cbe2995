"""A hasher that counts: how often has argon2 run, and how many runs were there at once?"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher, profiles


class CountingHasher(PasswordHasher):
    """Counts argon2 runs, can make them wait, and calls `during_a_run` in each."""

    def __init__(
        self, *, time_cost: int = profiles.CHEAPEST.time_cost, during_a_run: Callable[[], object] = lambda: None
    ) -> None:
        least = profiles.CHEAPEST
        super().__init__(
            time_cost, least.memory_cost, least.parallelism, hash_len=least.hash_len, salt_len=least.salt_len
        )
        self.runs = self.hashes = self.at_once_most = 0
        self.during_a_run = during_a_run
        self.may_finish = threading.Event()
        self.may_finish.set()
        self._at_once = 0
        self._mutex = threading.Lock()

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override] # noqa: A002
        self.runs += 1
        with self._running():
            return super().verify(hash, password)

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        self.hashes += 1
        with self._running():
            return super().hash(password, salt=salt)

    @contextmanager
    def _running(self) -> Iterator[None]:
        with self._mutex:
            self._at_once += 1
            self.at_once_most = max(self.at_once_most, self._at_once)
        try:
            self.during_a_run()
            assert self.may_finish.wait(10)
            yield
        finally:
            with self._mutex:
                self._at_once -= 1
