"""Redis is optional at every moment: whatever happens to it, each key gets the right answer."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from socketserver import StreamRequestHandler, UnixStreamServer
from typing import Any

import pytest
import redis
from argon2 import PasswordHasher, profiles
from flask import Flask

from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials import shared_digests
from app.credentials.shared_digests import SharedDigests
from app.credentials.verification import Credentials
from app.factory import create_app
from local.redis import EmbeddedRedis
from tests.support.databases import SECRET_KEY, close
from tests.support.hashers import CountingHasher
from tests.support.people import Tenant, events_of, execute, make_tenant
from tests.support.sending import send
from tests.support.waiting import wait_until
from tests.support.warm_processes import IDENTITY, Process, Processes, entries, new_key, shared_key


@pytest.fixture(name="server")
def _server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path / "redis") as server:
        yield server


@pytest.fixture(name="store")
def _store(server: EmbeddedRedis) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(server.url) as store:
        yield store


@pytest.fixture(name="start")
def _start(server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    monkeypatch.setattr(shared_digests, "_RETRY_SECONDS", 0.05)
    with Processes(server.url) as processes:
        yield processes


@pytest.fixture(name="frozen")
def _frozen(server: EmbeddedRedis) -> Iterator[None]:
    """Redis stands still during the test, and takes every connection."""
    os.kill(server.pid, signal.SIGSTOP)
    yield
    os.kill(server.pid, signal.SIGCONT)


class TestAway:
    @pytest.mark.usefixtures("frozen")
    def test_frozen_from_the_start_it_costs_argon2(self, start: Processes) -> None:
        process = start()

        _expect_right_answers(process)
        assert process.hasher.runs == 2

    def test_killed_while_in_use_it_costs_argon2(self, start: Processes, server: EmbeddedRedis) -> None:
        with redis.Redis.from_url(server.url) as store:
            process = start()
            known = shared_key(process, store)
        server.stop()

        assert process.prove(known) is not None
        _expect_right_answers(process)
        assert process.hasher.runs == 3

    def test_frozen_while_in_use_the_road_asks_it_once(
        self, start: Processes, store: "redis.Redis", server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shared_digests, "_RETRY_SECONDS", 60.0)
        process = start()
        shared_key(process, store)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            assert process.prove(new_key(process)) is not None
            asked: list[object] = []
            monkeypatch.setattr(redis.Redis, "pipeline", asked.append)
            for _ in range(20):
                _expect_right_answers(process)
            assert asked == []
        finally:
            os.kill(server.pid, signal.SIGCONT)

    def test_back_again_it_is_used_again_and_told_what_was_proven_meanwhile(
        self, start: Processes, store: "redis.Redis", server: EmbeddedRedis
    ) -> None:
        first, second = start(), start()
        before = shared_key(first, store)
        os.kill(server.pid, signal.SIGSTOP)
        meanwhile = new_key(first)
        assert first.prove(meanwhile) is not None
        os.kill(server.pid, signal.SIGCONT)
        wait_until(lambda: len(entries(store)) == 2)

        assert second.prove(meanwhile) is not None
        assert second.prove(before) is not None
        assert second.hasher.runs == 0

    def test_nobody_ever_listened_there(self, tmp_path: Path) -> None:
        with Processes(f"unix://{tmp_path}/nobody.sock") as start:
            _expect_right_answers(start())

    def test_something_else_listens_there(self, tmp_path: Path) -> None:
        with (
            _WebServer(str(tmp_path / "web.sock"), StreamRequestHandler) as web_server,
            ThreadPoolExecutor(1) as pool,
            Processes(f"unix://{tmp_path}/web.sock") as start,
        ):
            pool.submit(web_server.serve_forever, 0.01)
            _expect_right_answers(start())
            web_server.shutdown()


class _WebServer(UnixStreamServer):
    """Answers whatever it is asked with a line of HTTP."""

    def finish_request(self, request: Any, client_address: object) -> None:
        request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


class TestEmptyOrFull:
    def test_flushed_it_is_filled_again_by_those_who_run(
        self, start: Processes, store: "redis.Redis", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shared_digests, "_RENEWAL_SECONDS", 0.05)
        process = start()
        key = shared_key(process, store)
        store.flushall()

        assert process.prove(key) is not None
        wait_until(lambda: len(entries(store)) == 1)
        assert process.hasher.runs == 1

    def test_full_it_is_read_on(self, start: Processes, store: "redis.Redis") -> None:
        first, second = start(), start()
        known, other = shared_key(first, store), shared_key(first, store)
        store.config_set("maxmemory", 1)

        assert second.prove(known) is not None
        assert second.prove(new_key(second)) is not None
        second.shared.drop_loaded(second.parse(other).digest)
        assert second.prove(other) is not None
        assert second.hasher.runs == 1


@pytest.fixture(name="processes")
def _processes(settings: Settings, server: EmbeddedRedis) -> Iterator[list[Flask]]:
    """Two web processes on one database and one Redis; the hasher of the second counts."""
    apps, tiers = [], []
    for hasher in (PasswordHasher.from_parameters(profiles.CHEAPEST), CountingHasher()):
        shared = SharedDigests(server.url)
        tiers.append(shared)
        credentials = Credentials((SECRET_KEY,), argon2_runs_max=8, hasher=hasher, shared=shared)
        apps.append(create_app(replace(settings, database_pool_size=4), credentials=credentials))
    yield apps
    for tier in tiers:
        tier.close()
    for app in apps:
        close(_context(app).database)


class TestTheWholeRoad:
    def test_a_revoked_key_is_refused_by_a_process_that_knows_it_from_another(
        self, processes: list[Flask], store: "redis.Redis"
    ) -> None:
        first, second = processes
        alice = make_tenant(_context(first))
        assert send(first.test_client(), alice).status_code == 201
        wait_until(lambda: entries(store))
        assert send(second.test_client(), alice).status_code == 201
        _revoke(first, alice)

        for app in (first, second, second):
            assert send(app.test_client(), alice).status_code == 401
        assert len(events_of(_context(first), alice)) == 2

    def test_a_key_that_is_revoked_before_a_process_meets_it_is_refused(
        self, processes: list[Flask], store: "redis.Redis"
    ) -> None:
        first, second = processes
        alice = make_tenant(_context(first))
        assert send(first.test_client(), alice).status_code == 201
        wait_until(lambda: entries(store))
        _revoke(first, alice)

        assert send(second.test_client(), alice).status_code == 401
        assert len(events_of(_context(first), alice)) == 1

    def test_with_redis_frozen_events_are_stored_on(self, processes: list[Flask], server: EmbeddedRedis) -> None:
        first, _ = processes
        alice, charlie = make_tenant(_context(first)), make_tenant(_context(first))
        assert send(first.test_client(), alice).status_code == 201
        os.kill(server.pid, signal.SIGSTOP)
        try:
            assert [send(first.test_client(), who).status_code for who in (alice, charlie, charlie)] == [201] * 3
        finally:
            os.kill(server.pid, signal.SIGCONT)


def _expect_right_answers(process: Process) -> None:
    """A key that is right, one whose secret is wrong, and one that is unknown."""
    key = new_key(process)
    proof = process.prove(key)
    assert proof is not None
    assert proof.identity == IDENTITY
    wrong = replace(new_key(process), secret_hash=key.secret_hash)
    assert process.prove(wrong) is None
    assert process.credentials.identify(process.parse(wrong), lambda _: None) is None


def _revoke(app: Flask, tenant: Tenant) -> None:
    execute(_context(app), "UPDATE source_keys SET revoked_at = now() WHERE id = :id", id=tenant.key_row)


def _context(app: Flask) -> Context:
    context = app.extensions[EXTENSION]
    assert isinstance(context, Context)
    return context
