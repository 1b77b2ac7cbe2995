"""`python -m bench.prices`: what each step of the ingest path costs on this machine, one caller, nothing else running.

Prints the median of many runs in microseconds. Starts an embedded PostgreSQL (fsync on) in a temporary folder.
"""

import json
import select
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from flask import Flask
from sqlalchemy import text

from app.context import EXTENSION, Context
from app.database.engine import TenantScope
from app.factory import create_app
from app.identifiers import uuid7
from app.ingest.authentication import authenticate
from app.ingest.envelope import Attempt, read_envelope
from app.ingest.storage import store
from app.telemetry import metrics
from app.wire.exact_json import read_object
from bench.databases import Sender, make_sender, migrated_database

_PATH = "/v1/events/ingest"
_RUNS = 2_000
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
    yield "argon2, at issue", median_microseconds(lambda: context.credentials.mint("sk"), 20)
    forever = time.monotonic() + 3600
    verify = median_microseconds(lambda: authenticate(sender.key, context.credentials, context.database, forever))
    yield "look up a cached key", median_microseconds(lambda: context.credentials.lookup_cached(sender.key, "sk"))
    yield "authenticate a cached key", verify
    forged = sender.key[:-1] + ("0" if sender.key[-1] == "1" else "1")
    yield "refuse a forged key", median_microseconds(lambda: context.credentials.parse(forged, "sk"))
    yield "parse a key and make its checksum", median_microseconds(lambda: context.credentials.parse(sender.key, "sk"))
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
        for name, price in prices_in_the_database(context, sender, body):
            print(f"{name:40}{price:10.1f} µs")
        print(f"{'a whole request through Flask':40}{price_of_a_request(app, sender, body):10.1f} µs")


if __name__ == "__main__":
    main()
