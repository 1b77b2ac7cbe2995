"""A hasher that counts: how often has argon2 run?"""

import threading

from argon2 import PasswordHasher, profiles


class CountingHasher(PasswordHasher):
    """Counts argon2 runs, and can make them wait."""

    def __init__(self, *, time_cost: int = profiles.CHEAPEST.time_cost) -> None:
        super().__init__(time_cost, profiles.CHEAPEST.memory_cost, profiles.CHEAPEST.parallelism)
        self.runs = self.hashes = 0
        self.may_finish = threading.Event()
        self.may_finish.set()

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override] # noqa: A002
        self.runs += 1
        assert self.may_finish.wait(10)
        return super().verify(hash, password)

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        self.hashes += 1
        assert self.may_finish.wait(10)
        return super().hash(password, salt=salt)
