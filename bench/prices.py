"""`python -m bench.prices`: what each step of the ingest path costs on this machine, one caller, nothing else running.

Prints the median of many runs in microseconds. Starts an embedded PostgreSQL (fsync on) and a Redis in a temporary
folder.
"""

import json
import select
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import redis
from argon2 import PasswordHasher, profiles
from flask import Flask
from sqlalchemy import text

from app.context import EXTENSION, Context
from app.credentials.shared_digests import SharedDigests
from app.credentials.verification import Credentials, Identity, Known
from app.database.engine import TenantScope
from app.factory import create_app
from app.identifiers import uuid7
from app.ingest.authentication import authenticate
from app.ingest.envelope import Attempt, read_envelope
from app.ingest.storage import store
from app.telemetry import metrics
from app.wire.exact_json import read_object
from bench.databases import SECRET_KEY, Sender, make_sender, migrated_database
from local.guard import wait_until
from local.redis import EmbeddedRedis

_PATH = "/v1/events/ingest"
_RUNS = 2_000
_SHARED_KEYS = 10_000
# Of a twentieth of a second at full load, one process has about as many answers.
_BUFFERED = 200
_PAYLOAD = {"amount": 49.99, "currency": "EUR", "reason": "card_declined"}


def median_microseconds(step: Callable[[], object], runs: int = _RUNS) -> float:
    """The median of `runs` calls, after a tenth as many that are thrown away."""
    taken = []
    for _ in range(runs + runs // 10):
        begin = time.perf_counter_ns()
        step()
        taken.append(time.perf_counter_ns() - begin)
    return statistics.median(taken[runs // 10 :]) / 1000


def prices_in_the_process(context: Context, sender: Sender, body: bytes) -> Iterator[tuple[str, float]]:
    """What needs no round trip."""
    yield "argon2, once per key and process", median_microseconds(lambda: context.credentials.mint("sk"), 20)
    forever = time.monotonic() + 3600
    prove = median_microseconds(lambda: authenticate(sender.key, context.credentials, context.database, forever))
    yield "recognise a warm key", median_microseconds(lambda: context.credentials.recognise(sender.key, "sk"))
    yield "prove a warm key", prove
    forged = sender.key[:-1] + ("0" if sender.key[-1] == "1" else "1")
    yield "refuse a forged key", median_microseconds(lambda: context.credentials.parse(forged, "sk"))
    yield "check and parse a key", median_microseconds(lambda: context.credentials.parse(sender.key, "sk"))
    yield "read an envelope", median_microseconds(lambda: read_envelope(read_object(body)))
    poller = select.poll()
    with context.database.transaction(TenantScope.ALL) as session:
        connection = session.connection().connection.dbapi_connection
        poller.register(connection.fileno(), select.POLLIN)  # type: ignore[union-attr]
    yield "poll a pooled connection", median_microseconds(lambda: poller.poll(0))


def prices_of_counting() -> Iterator[tuple[str, float]]:
    """What metrics cost the ingest path: an append for each event and each group, counted twenty times a second."""
    answers = metrics.MetricBuffer[tuple[str, float]](lambda answers: metrics.count_requests("POST", _PATH, answers))
    groups = metrics.MetricBuffer(metrics.count_groups)

    def flush_answers() -> None:
        for _ in range(_BUFFERED):
            answers.add(("stored", 0.005))
        answers.flush()

    def flush_groups() -> None:
        for _ in range(_BUFFERED):
            groups.add((25, 0.002, 0.001))
        groups.flush()

    yield "buffer an answer and count it", median_microseconds(flush_answers, 200) / _BUFFERED
    yield "buffer a group and count it", median_microseconds(flush_groups, 200) / _BUFFERED
    yield "count an answer at once", median_microseconds(lambda: metrics.count_request("POST", _PATH, "stored", 0.005))


def prices_of_the_second_tier(url: str) -> Iterator[tuple[str, float]]:
    """Keys that another process has proven. Their hasher is the cheapest: nothing that is measured runs it."""
    tiers: list[SharedDigests] = []

    def process() -> tuple[Credentials, SharedDigests]:
        tiers.append(SharedDigests(url))
        hasher = PasswordHasher.from_parameters(profiles.CHEAPEST)
        return Credentials((SECRET_KEY,), argon2_runs_max=1, hasher=hasher, shared=tiers[-1]), tiers[-1]

    def prove_one(number: int) -> str:
        key_id, key, secret_hash = first.mint("sk")
        known = Known(secret_hash, Identity(f"key_{key_id}", number, 1))
        if (credential := first.parse(key, "sk")) is not None:
            first.identify(credential, lambda _: known)
        return key

    with redis.Redis.from_url(url) as store:
        first, _ = process()
        keys = [prove_one(number) for number in range(_SHARED_KEYS)]
        wait_until(lambda: sum(store.hlen(name) for name in store.keys("*")) == _SHARED_KEYS, 60)
    # What the first request after a restart waits for: a connection, all the entries, and one look-up.
    yield f"load {_SHARED_KEYS:,} shared keys", median_microseconds(lambda: process()[1].find(bytes(32)), 10)
    second, shared = process()
    credential = second.parse(keys[0], "sk")
    if credential is not None:
        shared.find(credential.digest)
        wait_until(lambda: shared.loaded(credential.digest) is not None, 60)
        first_uses = iter(keys)
        yield "recognise a loaded key", median_microseconds(lambda: second.recognise(next(first_uses), "sk"))
        yield "look one up in Redis", median_microseconds(lambda: shared.find(credential.digest))
    for tier in tiers:
        tier.close()


def prices_in_the_database(context: Context, sender: Sender, body: bytes) -> Iterator[tuple[str, float]]:
    """Transactions, each with its commit."""
    connection = context.database.dedicated_connection()
    forever = time.monotonic() + 3600

    def select_one() -> None:
        with context.database.transaction(TenantScope.ALL) as session:
            session.execute(text("SELECT 1"))

    def store_one() -> None:
        attempt = Attempt(
            envelope=read_envelope(read_object(body)),
            idempotency_key=str(uuid7()),
            event_uid=uuid7(),
        )
        store(
            lambda statement, parameters: connection.run(statement, parameters, forever),
            [(sender.identity, attempt)],
            idempotency_ttl_seconds=86_400,
            lock_wait_seconds=1,
        )

    yield "a transaction with SELECT 1", median_microseconds(select_one)
    yield "a statement that stores an event", median_microseconds(store_one)
    connection.close()


def price_of_a_request(app: Flask, sender: Sender, body: bytes) -> float:
    """The whole of it, through Flask's test client."""
    client = app.test_client()

    def request() -> None:
        headers = {"X-API-Key": sender.key, "Idempotency-Key": str(uuid7())}
        client.post(_PATH, data=body, headers=headers, content_type="application/json")

    return median_microseconds(request)


def main() -> None:
    """Measure and print."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        app = create_app(stack.enter_context(migrated_database(folder)))
        context: Context = app.extensions[EXTENSION]
        stack.callback(context.database.engine.dispose)
        sender = make_sender(context)
        event = {"event_type": "payment.failed", "source_id": sender.source_id, "payload": _PAYLOAD}
        body = json.dumps(event).encode()
        for name, price in [*prices_in_the_process(context, sender, body), *prices_of_counting()]:
            print(f"{name:40}{price:10.1f} µs")
        shared = stack.enter_context(EmbeddedRedis(folder / "redis"))
        for name, price in prices_of_the_second_tier(shared.url):
            print(f"{name:40}{price:10.1f} µs")
        for name, price in prices_in_the_database(context, sender, body):
            print(f"{name:40}{price:10.1f} µs")
        print(f"{'a whole request through Flask':40}{price_of_a_request(app, sender, body):10.1f} µs")


if __name__ == "__main__":
    main()
