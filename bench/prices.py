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

from app.context import EXTENSION, Context
from app.credentials.verification import Credentials, Identity
from app.database.engine import TenantScope
from app.database.migrate import migrate
from app.factory import create_app
from app.identifiers import uuid7
from app.ingest.authentication import authenticate
from app.ingest.envelope import Attempt, read_envelope
from app.ingest.storage import store
from app.telemetry import metrics
from app.wire.exact_json import read_object
from local.postgres import EmbeddedPostgres
from tests.support.databases import fresh_database
from tests.support.people import Tenant, make_tenant
from tests.support.sending import PATH

_RUNS = 2_000
# Of a twentieth of a second at full load, one process has about as many answers.
_NOTED = 200
_PAYLOAD = {"amount": 49.99, "currency": "EUR", "reason": "card_declined"}


def median_microseconds(step: Callable[[], object], runs: int = _RUNS) -> float:
    """The median of `runs` calls, after a tenth as many that are thrown away."""
    taken = []
    for _ in range(runs + runs // 10):
        begin = time.perf_counter_ns()
        step()
        taken.append(time.perf_counter_ns() - begin)
    return statistics.median(taken[runs // 10 :]) / 1000


def prices_in_the_process(context: Context, tenant: Tenant, body: bytes) -> Iterator[tuple[str, float]]:
    """What needs no round trip."""
    yield "argon2, at issue", median_microseconds(lambda: context.credentials.mint("sk"), 20)
    forever = time.monotonic() + 3600
    verify = median_microseconds(lambda: authenticate(tenant.key, context.credentials, context.database, forever))
    yield "look up a cached key", median_microseconds(lambda: context.credentials.lookup_cached(tenant.key, "sk"))
    yield "authenticate a cached key", verify
    forged = tenant.key[:-1] + ("0" if tenant.key[-1] == "1" else "1")
    yield "refuse a forged key", median_microseconds(lambda: context.credentials.parse(forged, "sk"))
    yield "parse a key and make its checksum", median_microseconds(lambda: context.credentials.parse(tenant.key, "sk"))
    yield "read an envelope", median_microseconds(lambda: read_envelope(read_object(body)))
    poller = select.poll()
    with context.database.transaction(TenantScope.ALL) as session:
        connection = session.connection().connection.dbapi_connection
        poller.register(connection.fileno(), select.POLLIN)  # type: ignore[union-attr]
    yield "poll a pooled connection", median_microseconds(lambda: poller.poll(0))


def prices_of_counting() -> Iterator[tuple[str, float]]:
    """What metrics cost the road: a note for each event and each group, folded twenty times a second."""
    answers = metrics.Tally[tuple[str, float]](lambda noted: metrics.count_requests("POST", PATH, noted))
    groups = metrics.Tally(metrics.count_groups)

    def fold_answers() -> None:
        for _ in range(_NOTED):
            answers.note(("stored", 0.005))
        answers.fold()

    def fold_groups() -> None:
        for _ in range(_NOTED):
            groups.note((25, 0.002, 0.001))
        groups.fold()

    yield "note an answer and count it", median_microseconds(fold_answers, 200) / _NOTED
    yield "note a group and count it", median_microseconds(fold_groups, 200) / _NOTED
    yield "count an answer at once", median_microseconds(lambda: metrics.count_request("POST", PATH, "stored", 0.005))


def prices_in_the_database(context: Context, tenant: Tenant, body: bytes) -> Iterator[tuple[str, float]]:
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
            [(Identity(tenant.key_id, tenant.key_row, tenant.workspace_row), attempt)],
            idempotency_ttl_seconds=86_400,
            lock_wait_seconds=1,
        )

    def meet_a_key() -> None:
        settings = context.settings
        fresh = Credentials(settings.secret_key, argon2_runs_max=settings.argon2_runs_max)
        authenticate(tenant.key, fresh, context.database, forever)

    yield "a transaction with SELECT 1", median_microseconds(select_one)
    yield "authenticate a key that is not cached", median_microseconds(meet_a_key)
    yield "a statement that stores an event", median_microseconds(store_one)
    connection.close()


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
        context: Context = app.extensions[EXTENSION]
        stack.callback(context.database.engine.dispose)
        tenant = make_tenant(context)
        event = {"event_type": "payment.failed", "source_id": tenant.source_id, "payload": _PAYLOAD}
        body = json.dumps(event).encode()
        for name, price in [*prices_in_the_process(context, tenant, body), *prices_of_counting()]:
            print(f"{name:40}{price:10.1f} µs")
        for name, price in prices_in_the_database(context, tenant, body):
            print(f"{name:40}{price:10.1f} µs")
        print(f"{'a whole request through Flask':40}{price_of_a_request(app, tenant, body):10.1f} µs")


if __name__ == "__main__":
    main()
