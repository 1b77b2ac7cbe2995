"""What processes share of the keys they have proven: it saves argon2, and it can be trusted with nothing."""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import redis

from app.credentials import shared_digests
from app.credentials.verification import Identity
from local.redis import EmbeddedRedis
from tests.support.waiting import wait_until
from tests.support.warm_processes import (
    IDENTITY,
    SECRET,
    Processes,
    entries,
    entry_of,
    in_a_child,
    new_key,
    prove_at_once,
    shared_key,
)

_OTHER_SECRET = "o" * 40
_WEEK_SECONDS = 7 * 24 * 3600


@pytest.fixture(scope="module", name="server")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path_factory.mktemp("shared") / "data") as server:
        yield server


@pytest.fixture(autouse=True)
def _redis_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with other work a healthy Redis may need more than a tenth of a second."""
    monkeypatch.setattr(shared_digests, "_TIMEOUT_SECONDS", 10.0)
    monkeypatch.setattr(shared_digests, "_LOAD_WAIT_SECONDS", 10.0)


@pytest.fixture(name="store")
def _store(server: EmbeddedRedis) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(server.url) as store:
        store.flushall()
        yield store


@pytest.fixture(name="start")
def _start(server: EmbeddedRedis, store: "redis.Redis") -> Iterator[Processes]:
    with Processes(server.url) as processes:
        yield processes


class TestWhatOneProcessProves:
    def test_the_next_one_knows_without_argon2(self, start: Processes, store: "redis.Redis") -> None:
        first, second = start(), start()
        key = shared_key(first, store)

        proof = second.prove(key)

        assert proof is not None
        assert proof.identity == IDENTITY
        assert (first.hasher.runs, second.hasher.runs) == (1, 0)

    def test_one_that_runs_already_looks_up(self, start: Processes, store: "redis.Redis") -> None:
        first, second = start(), start()
        shared_key(second, store)
        later = shared_key(first, store)

        assert second.shared.loaded(second.parse(later).digest) is None
        assert second.prove(later) is not None
        assert second.hasher.runs == 1
        assert second.credentials.recognise(later.text, "sk") == IDENTITY

    def test_is_recognised_from_memory_alone_once_it_is_loaded(self, start: Processes, store: "redis.Redis") -> None:
        first, second = start(), start()
        known, other = shared_key(first, store), shared_key(first, store)
        assert second.credentials.recognise(known.text, "sk") is None
        second.prove(other)

        assert second.credentials.recognise(known.text, "sk") == IDENTITY
        assert second.shared.loaded(second.parse(known).digest) is None

    def test_many_threads_may_bring_at_once(self, start: Processes, store: "redis.Redis") -> None:
        cold, warm = start(), start()
        key = new_key(cold)

        assert prove_at_once(cold, key, threads=50) == [IDENTITY] * 50
        assert cold.hasher.runs == 1
        wait_until(lambda: entries(store))
        assert prove_at_once(warm, key, threads=50) == [IDENTITY] * 50
        assert warm.hasher.runs == 0

    def test_each_child_of_a_process_knows_too(self, start: Processes, store: "redis.Redis") -> None:
        first, parent = start(), start()
        known = shared_key(first, store)
        parent.prove(known)
        later = shared_key(first, store)

        def child() -> bool:
            fresh = new_key(parent)
            proven = [parent.prove(key) for key in (known, later, fresh)]
            wait_until(lambda: len(entries(store)) == 3)
            return None not in proven and parent.hasher.runs == 1

        assert in_a_child(child)
        assert parent.prove(later) is not None
        assert parent.hasher.runs == 0

    def test_is_no_part_of_the_key(self, start: Processes, store: "redis.Redis") -> None:
        process = start()
        keys = [shared_key(process, store) for _ in range(3)]

        dump = b"".join(name + digest + sealed for name, digest, sealed in entries(store))
        assert len(entries(store)) == 3
        for key in keys:
            secret = key.text[24:].encode()
            assert not any(secret[place : place + 5] in dump for place in range(len(secret) - 4))

    def test_is_forgotten_by_redis_itself_after_one_to_two_weeks(self, start: Processes, store: "redis.Redis") -> None:
        shared_key(start(), store)

        (name,) = store.keys()
        assert _WEEK_SECONDS <= store.ttl(name) <= 2 * _WEEK_SECONDS

    def test_lives_on_when_it_is_used_in_its_second_week(
        self, start: Processes, store: "redis.Redis", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shared_digests, "_RENEWAL_SECONDS", 0.05)
        key = shared_key(start(), store)
        ((name, _, _),) = entries(store)
        last_week = b"lariba:warm:%d" % (int(name.rpartition(b":")[2]) - 1)
        store.rename(name, last_week)
        second = start()

        assert second.prove(key) is not None
        assert second.hasher.runs == 0
        wait_until(lambda: store.hlen(name) == 1)


class TestNothingIsShared:
    def test_of_a_wrong_secret(self, start: Processes, store: "redis.Redis") -> None:
        process = start()
        wrong = replace(new_key(process), secret_hash=new_key(process).secret_hash)

        assert process.prove(wrong) is None
        shared_key(process, store)
        assert len(entries(store)) == 1

    def test_of_a_flood_of_forged_keys_and_neither_redis_nor_argon2_is_asked(
        self, start: Processes, store: "redis.Redis"
    ) -> None:
        process = start()
        key = new_key(process)
        forged = [key.text[:24] + f"{number:043}" for number in range(2000)]

        assert not any(process.credentials.recognise(text, "sk") for text in forged)
        assert not any(process.credentials.parse(text, "sk") for text in forged)
        assert not store.keys()
        assert process.hasher.runs == 0
        assert "shared-digests" not in {thread.name for thread in threading.enumerate()}

    def test_before_the_first_use(self, start: Processes) -> None:
        start()

        assert "shared-digests" not in {thread.name for thread in threading.enumerate()}


def _swap(other: bytes, _own: bytes) -> bytes:
    return other


_FORGERIES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "another key's entry": _swap,
    "another workspace": lambda _, own: own.replace(b" 3", b" 4", 1),
    "nothing": lambda *_: b"",
    "a word": lambda *_: b"garbage",
    "bytes": lambda *_: bytes(range(256))[:77],
    "no seal": lambda _, own: own[:-32],
    "a seal of zeros": lambda _, own: own[:-32] + bytes(32),
    "too much": lambda _, own: own + b"\0",
    "a megabyte": lambda *_: bytes(1_000_000),
}


class TestWhoeverCanWriteToRedis:
    @pytest.mark.parametrize("forgery", _FORGERIES)
    @pytest.mark.parametrize("way", ["loaded", "looked up"])
    def test_can_make_argon2_run_and_nothing_else(
        self, start: Processes, store: "redis.Redis", forgery: str, way: str
    ) -> None:
        first, second = start(), start()
        key, other = shared_key(first, store), shared_key(first, store, identity=Identity("key_9", 9, 9))
        if way == "looked up":
            second.prove(other)
        name, digest, own = entry_of(store, first, key)
        _, _, others = entry_of(store, first, other)
        store.hset(name, digest, _FORGERIES[forgery](others, own))
        second.shared.drop_loaded(digest)
        if way == "loaded":
            second = start()

        proof = second.prove(key)

        assert proof is not None
        assert proof.identity == IDENTITY
        assert second.hasher.runs == 1
        wait_until(lambda: entry_of(store, first, key) == (name, digest, own))

    @pytest.mark.parametrize("secrets", [(_OTHER_SECRET,), (_OTHER_SECRET, SECRET)])
    def test_cannot_seal_without_the_secret_that_signed_the_key(
        self, start: Processes, store: "redis.Redis", secrets: tuple[str, ...]
    ) -> None:
        forger, victim = start((_OTHER_SECRET,)), start(secrets)
        key = new_key(start())
        name, _, sealed = entry_of(store, forger, shared_key(forger, store))
        digest = start().parse(key).digest
        store.hset(name, digest, sealed)

        assert victim.credentials.recognise(key.text, "sk") is None
        if len(secrets) == 2:
            assert victim.prove(key) is not None
            assert victim.hasher.runs == 1

    @pytest.mark.parametrize("command", [("SET", "x"), ("LPUSH", "x"), ("SADD", "x"), ("XADD", "*", "x", "x")])
    def test_can_put_another_type_there(self, start: Processes, store: "redis.Redis", command: tuple[str, ...]) -> None:
        first = start()
        key = shared_key(first, store)
        (name,) = store.keys()
        store.delete(name)
        store.execute_command(*command[:1], name, *command[1:])  # type: ignore[no-untyped-call]
        second = start()

        assert second.prove(key) is not None
        assert first.prove(new_key(first)) is not None
        assert second.hasher.runs == 1

    def test_cannot_fill_a_process(self, start: Processes, store: "redis.Redis") -> None:
        first, second = start(), start(room=100)
        key = shared_key(first, store)
        (name,) = store.keys()
        junk = {os.urandom(32): os.urandom(70) for _ in range(3000)}
        store.hset(name, items=[part for entry in junk.items() for part in entry])

        assert second.prove(key) is not None
        assert second.hasher.runs == 0
        assert sum(second.shared.loaded(digest) is not None for digest in junk) <= 100

    def test_cannot_fill_a_process_with_one_entry(self, start: Processes, store: "redis.Redis") -> None:
        first, second = start(), start()
        key = shared_key(first, store)
        name, _, sealed = entry_of(store, first, key)
        store.hset(name, bytes(32), sealed * 100)

        assert second.prove(key) is not None
        assert second.hasher.runs == 0
        assert second.shared.loaded(bytes(32)) is None


class TestWhenTheServersSecretsChange:
    def test_what_the_old_one_signed_is_still_known(self, start: Processes, store: "redis.Redis") -> None:
        key = shared_key(start((SECRET,)), store)
        after = start((_OTHER_SECRET, SECRET))

        assert after.prove(key) is not None
        assert after.credentials.recognise(key.text, "sk") == IDENTITY
        assert after.hasher.runs == 0

    def test_removing_one_ends_its_keys_although_they_are_shared(self, start: Processes, store: "redis.Redis") -> None:
        both, after = start((_OTHER_SECRET, SECRET)), start((_OTHER_SECRET,))
        ended = shared_key(both, store, minted_by=start((SECRET,)))
        going_on = shared_key(both, store)
        after.prove(going_on)

        assert after.credentials.recognise(going_on.text, "sk") == IDENTITY
        assert after.credentials.recognise(ended.text, "sk") is None
        assert after.credentials.parse(ended.text, "sk") is None

    def test_other_argon2_parameters_have_each_key_proven_and_hashed_again(
        self, start: Processes, store: "redis.Redis"
    ) -> None:
        key = shared_key(start(), store)
        after = start(time_cost=2)

        proof = after.prove(key)

        assert proof is not None
        assert proof.new_hash is not None
        assert after.hasher.runs == 1
