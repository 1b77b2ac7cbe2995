"""`python -m bench.prices`: what each step of the ingest road costs on this machine, one caller, nothing else running.

Prints the median of many runs in microseconds. Starts a PostgreSQL of its own (embedded, fsync on) in a temporary
folder, unless DATABASE_URL names a superuser's way to another one.
"""

import json
import os
import select
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from flask import Flask
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.context import EXTENSION, Context, now
from app.credentials import Identity
from app.embedded.postgres import EmbeddedPostgres
from app.exact_json import read_object
from app.factory import create_app
from app.identifiers import uuid7
from app.ingest.authentication import authenticate
from app.ingest.envelope import Attempt, read_envelope
from app.ingest.storage import store
from app.locks import share_workspace
from app.schema import migrate
from tests.conftest import fresh_database
from tests.people import Tenant, make_tenant
from tests.sending import PATH

_RUNS = 2_000
_PAYLOAD = {"amount": 49.99, "currency": "EUR", "reason": "card_declined"}


def median_microseconds(step: Callable[[], object], runs: int = _RUNS) -> float:
    """The median of `runs` calls, after a tenth as many that are thrown away."""
    taken = []
    for _ in range(runs + runs // 10):
        begin = time.perf_counter_ns()
        step()
        taken.append(time.perf_counter_ns() - begin)
    return statistics.median(taken[runs // 10 :]) / 1000


def prices_in_the_process(house: Context, tenant: Tenant, body: bytes) -> Iterator[tuple[str, float]]:
    """What needs no round trip."""
    yield "argon2, once per key and process", median_microseconds(lambda: house.credentials.mint("sk"), 20)
    forever = time.monotonic() + 3600
    prove = median_microseconds(lambda: authenticate(tenant.key, house.credentials, house.database, forever))
    yield "prove a known key", prove
    yield "read an envelope", median_microseconds(lambda: read_envelope(read_object(body)))
    poller = select.poll()
    with house.database.transaction() as session:
        connection = session.connection().connection.dbapi_connection
        poller.register(connection.fileno(), select.POLLIN)  # type: ignore[union-attr]
    yield "poll a pooled connection", median_microseconds(lambda: poller.poll(0))


def prices_in_the_database(house: Context, tenant: Tenant, body: bytes) -> Iterator[tuple[str, float]]:
    """Transactions, each with its commit."""

    def transaction(work: Callable[[Session], object]) -> Callable[[], None]:
        def run() -> None:
            with house.database.transaction() as session:
                work(session)

        return run

    def store_one(session: Session) -> None:
        at = now()
        attempt = Attempt(
            envelope=read_envelope(read_object(body)),
            idempotency_key=str(uuid7()),
            received_at=at,
            event_uid=uuid7(),
        )
        group = [(Identity(tenant.key_id, tenant.key_row, tenant.workspace_row), attempt)]
        store(session, group, workspace_id=tenant.workspace_row, received_at=at, idempotency_ttl_seconds=86_400)

    yield "a transaction with SELECT 1", median_microseconds(transaction(lambda it: it.execute(text("SELECT 1"))))
    barrier = transaction(lambda session: share_workspace(session, tenant.workspace_row))
    yield "a transaction with the barrier", median_microseconds(barrier)
    yield "a transaction that stores an event", median_microseconds(transaction(store_one))


def price_of_a_request(app: Flask, tenant: Tenant, body: bytes) -> float:
    """The whole of it, through Flask's test client."""
    client = app.test_client()

    def request() -> None:
        headers = {"X-API-Key": tenant.key, "Idempotency-Key": str(uuid7())}
        client.post(PATH, data=body, headers=headers, content_type="application/json")

    return median_microseconds(request)


def main() -> None:
    """Measure and print."""
    with ExitStack() as stack:
        server = os.environ.get("DATABASE_URL")
        if not server:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            server = stack.enter_context(EmbeddedPostgres(folder / "data")).url("postgres", "postgres")
        settings = stack.enter_context(fresh_database(server))
        migrate(settings)
        app = create_app(settings)
        house: Context = app.extensions[EXTENSION]
        stack.callback(house.database.engine.dispose)
        tenant = make_tenant(house)
        event = {"event_type": "payment.failed", "source_id": tenant.source_id, "payload": _PAYLOAD}
        body = json.dumps(event).encode()
        for name, price in prices_in_the_process(house, tenant, body):
            print(f"{name:40}{price:10.1f} µs")
        for name, price in prices_in_the_database(house, tenant, body):
            print(f"{name:40}{price:10.1f} µs")
        print(f"{'a whole request through Flask':40}{price_of_a_request(app, tenant, body):10.1f} µs")


if __name__ == "__main__":
    main()
