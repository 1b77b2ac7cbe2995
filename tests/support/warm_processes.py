"""Web processes, as far as proving keys goes: several in one test process, each with a memory of its own."""

import os
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import redis

from app.credentials.shared_digests import SharedDigests
from app.credentials.verification import Credential, Credentials, Identity, Known, Proof
from tests.support.hashers import CountingHasher
from tests.support.waiting import wait_until

SECRET = "s" * 40
IDENTITY = Identity(public_id="key_7", row_id=7, workspace_id=3)


@dataclass(frozen=True)
class Process:
    """What a web process has of this: its memory, its way to Redis, its argon2."""

    credentials: Credentials
    shared: SharedDigests
    hasher: CountingHasher

    def prove(self, key: "Key") -> Proof | None:
        return self.credentials.identify(self.parse(key), lambda _: Known(key.secret_hash, key.identity))

    def parse(self, key: "Key") -> Credential:
        credential = self.credentials.parse(key.text, "sk")
        assert credential is not None
        return credential


@dataclass(frozen=True)
class Key:
    text: str
    secret_hash: str
    identity: Identity = IDENTITY


class Processes:
    """Starts processes that share the Redis at `url`, and ends them after the block."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._started: list[SharedDigests] = []

    def __call__(self, secrets: tuple[str, ...] = (SECRET,), *, time_cost: int = 1, room: int = 1000) -> Process:
        shared, hasher = SharedDigests(self._url, entries_max=room), CountingHasher(time_cost=time_cost)
        self._started.append(shared)
        return Process(Credentials(secrets, argon2_runs_max=8, hasher=hasher, shared=shared), shared, hasher)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for shared in self._started:
            shared.close()


def new_key(process: Process, identity: Identity = IDENTITY) -> Key:
    _, text, secret_hash = process.credentials.mint("sk")
    return Key(text, secret_hash, identity)


def shared_key(
    process: Process, store: "redis.Redis", *, identity: Identity = IDENTITY, minted_by: Process | None = None
) -> Key:
    """A key that `process` has proven and that stands in Redis."""
    key = new_key(minted_by or process, identity)
    assert process.prove(key) is not None
    wait_until(lambda: has_entry(store, process, key))
    return key


def entries(store: "redis.Redis") -> list[tuple[bytes, bytes, bytes]]:
    """All that Redis holds: (name, digest, sealed)."""
    names: list[Any] = store.keys("*")
    hashes: list[tuple[Any, dict[Any, Any]]] = [(name, store.hgetall(name)) for name in names]
    return [(name, digest, sealed) for name, hash_ in hashes for digest, sealed in hash_.items()]


def has_entry(store: "redis.Redis", process: Process, key: Key) -> bool:
    digest = process.parse(key).digest
    return any(found == digest for _, found, _ in entries(store))


def entry_of(store: "redis.Redis", process: Process, key: Key) -> tuple[Any, Any, bytes]:
    """What Redis holds for `key`: (name, digest, sealed)."""
    digest = process.parse(key).digest
    return next(entry for entry in entries(store) if entry[1] == digest)


def prove_at_once(process: Process, key: Key, *, threads: int) -> list[Identity | None]:
    barrier = threading.Barrier(threads)

    def prove() -> Identity | None:
        barrier.wait()
        proof = process.prove(key)
        return proof.identity if proof else None

    with ThreadPoolExecutor(threads) as pool:
        return [future.result() for future in [pool.submit(prove) for _ in range(threads)]]


def in_a_child(work: Callable[[], bool]) -> bool:
    with warnings.catch_warnings():
        # Python 3.12 and later warn of a fork beside threads; whether that goes well is what we want to know.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        status = 2
        try:
            status = 0 if work() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
