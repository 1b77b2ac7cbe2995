"""Counting refusals: under their code, to the key that they met, never twice, and nothing for what was accepted."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.config import Settings
from app.context import Context
from app.counting.flushed import REPEAT_SECONDS
from app.credentials.verification import Identity
from app.database.engine import Database, TenantScope
from app.errors import BadRequest, OutcomeUnknown, RateLimitExceeded, StorageUnavailable
from app.ingest.refusals import Refusals
from app.ingest.services import EXTENSION as INGEST
from app.maintenance.usage import REPEATABLE, fold_usage
from app.models import UsageOutbox
from tests.ingest.test_batch import send_batch
from tests.support.live import LiveServer, live_server
from tests.support.logged import logged_by
from tests.support.lossy_commits import LossyCommits
from tests.support.people import Tenant, events_of, execute, rows
from tests.support.sending import PATH, event_for, send
from tests.support.servers import OUR_LOCKS
from tests.support.waiting import wait_until

pytestmark = pytest.mark.wiring

_REFUSED = (
    "SELECT outcome, sum(events)::bigint AS events FROM ("
    " SELECT outcome, events, source_key_id FROM usage_outbox UNION ALL"
    " SELECT outcome, events, source_key_id FROM usage_hours) AS used"
    " WHERE source_key_id = :key AND outcome NOT IN ('stored', 'duplicate', 'replayed')"
    " GROUP BY 1"
)

_WAITING_FOR_A_TRANSACTION = f"SELECT 1 FROM {OUR_LOCKS} locktype = 'transactionid' AND NOT granted"


def _counted(context: Context, tenant: Tenant) -> dict[str, int]:
    return {row.outcome: row.events for row in rows(context, _REFUSED, key=tenant.key_row)}


def _identity(tenant: Tenant) -> Identity:
    return Identity(tenant.key_id, tenant.key_row, tenant.workspace_row)


@pytest.fixture(name="counted")
def _counted_by_the_app(app: Flask, context: Context, alice: Tenant) -> Callable[[], dict[str, int]]:
    """What the app has counted for alice's key so far."""

    def counted() -> dict[str, int]:
        app.extensions[INGEST].refusals.flush()
        return _counted(context, alice)

    return counted


@pytest.fixture(name="refusals")
def _refusals(context: Context) -> Refusals:
    """A process's own that is flushed when the test says so."""
    return Refusals(context.database, flush_seconds=None)


class TestWhatIsCounted:
    @pytest.mark.parametrize(
        ("body", "code"),
        [
            ("not json", "bad_request"),
            ({"event_type": ""}, "schema_validation_failed"),
            ({"source_id": "src_other"}, "source_mismatch"),
            ({"environment": "other"}, "environment_mismatch"),
            ("x" * 600_000, "payload_too_large"),
        ],
    )
    def test_a_refused_event_under_its_code(
        self, client: FlaskClient, alice: Tenant, counted: Callable[[], dict[str, int]], body: Any, code: str
    ) -> None:
        sent = body if isinstance(body, str) else event_for(alice, **body)

        responses = [send(client, alice, sent) for _ in range(2)]

        assert all(response.status_code >= 400 for response in responses)
        assert counted() == {code: 2}

    @pytest.mark.parametrize("is_sound", [True, False])
    def test_a_key_that_was_proven_and_lives_no_more(
        self,
        client: FlaskClient,
        context: Context,
        alice: Tenant,
        counted: Callable[[], dict[str, int]],
        is_sound: bool,  # noqa: FBT001
    ) -> None:
        execute(context, "UPDATE source_keys SET revoked_at = now() WHERE id = :id", id=alice.key_row)

        assert send(client, alice, None if is_sound else "not json").status_code == 401

        assert counted() == {"invalid_source_key": 1}

    def test_other_content_under_a_known_id_or_idempotency_key(
        self, client: FlaskClient, alice: Tenant, counted: Callable[[], dict[str, int]]
    ) -> None:
        send(client, alice, event_for(alice, event_id="e"), idempotency_key="k")
        send(client, alice, event_for(alice, event_id="e", payload={}))
        send(client, alice, event_for(alice, payload={}), idempotency_key="k")

        assert counted() == {"duplicate_event": 1, "idempotency_key_reused": 1}

    def test_an_event_beyond_the_rate_limit(
        self, client: FlaskClient, app: Flask, alice: Tenant, counted: Callable[[], dict[str, int]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        def refuse(*_: object) -> None:
            raise RateLimitExceeded

        monkeypatch.setattr("app.rate_limits.RateLimiter.admit", refuse)

        assert send(client, alice).status_code == 429
        assert send_batch(client, alice, [event_for(alice)] * 3).status_code == 429

        assert counted() == {"rate_limit_exceeded": 2}

    def test_nothing_for_what_was_accepted(
        self, client: FlaskClient, alice: Tenant, counted: Callable[[], dict[str, int]]
    ) -> None:
        for _ in range(2):
            send(client, alice, event_for(alice, event_id="e"), idempotency_key="k")
        send(client, alice, event_for(alice, event_id="e"))
        send_batch(client, alice, [event_for(alice)])

        assert counted() == {}

    def test_nothing_for_a_key_that_was_never_issued(
        self, client: FlaskClient, alice: Tenant, counted: Callable[[], dict[str, int]]
    ) -> None:
        for key in ("", "lrb_sk_x_y", alice.key[:-1] + ("A" if alice.key[-1] != "A" else "B"), alice.token):
            assert send(client, alice, key=key).status_code == 401

        assert counted() == {}

    def test_an_event_that_was_refused_because_the_database_is_busy_but_not_one_that_may_be_stored(
        self, refusals: Refusals, context: Context, alice: Tenant
    ) -> None:
        refusals.count(_identity(alice), StorageUnavailable())
        refusals.count(_identity(alice), OutcomeUnknown())
        refusals.flush()

        assert _counted(context, alice) == {"storage_unavailable": 1}


class TestBatches:
    def test_each_rejected_event_counts_under_its_own_code(
        self, client: FlaskClient, alice: Tenant, counted: Callable[[], dict[str, int]]
    ) -> None:
        wrong = [
            event_for(alice, severity="x"),
            "[]",
            event_for(alice, environment="x"),
            event_for(alice, severity="y"),
        ]
        twice = [event_for(alice, event_id="e"), event_for(alice, event_id="e", payload={})]

        assert send_batch(client, alice, [event_for(alice), *wrong, *twice]).status_code == 200

        assert counted() == {
            "bad_request": 1, "schema_validation_failed": 2, "environment_mismatch": 1, "duplicate_event": 1,
        }  # fmt: skip

    def test_a_batch_that_is_replayed_rejects_nothing_again(
        self, client: FlaskClient, alice: Tenant, counted: Callable[[], dict[str, int]]
    ) -> None:
        batch = [event_for(alice), event_for(alice, severity="x")]
        for _ in range(3):
            send_batch(client, alice, batch, "k")

        assert counted() == {"schema_validation_failed": 1}

    def test_a_batch_that_is_refused_as_a_whole_counts_once(
        self, client: FlaskClient, alice: Tenant, counted: Callable[[], dict[str, int]]
    ) -> None:
        send_batch(client, alice, b"not json")
        send_batch(client, alice, [event_for(alice), event_for(alice, severity="x")], "k", "?atomic=true")
        send_batch(client, alice, [event_for(alice)], "k", "?atomic=perhaps")

        assert counted() == {"bad_request": 2, "batch_rejected": 1}

    def test_a_batch_whose_commit_was_lost_counts_once(
        self, client: FlaskClient, context: Context, alice: Tenant, counted: Callable[[], dict[str, int]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        send_batch(client, alice, [event_for(alice)])
        LossyCommits(monkeypatch, "after", "before", "after")

        response = send_batch(client, alice, [event_for(alice, event_id="e"), event_for(alice, severity="x")], "k")

        assert response.status_code == 200
        assert counted() == {"schema_validation_failed": 1}

    def test_a_batch_that_another_request_carried_out_meanwhile_counts_once(
        self, client: FlaskClient, alice: Tenant, counted: Callable[[], dict[str, int]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        batch = [event_for(alice, event_id="e"), event_for(alice, severity="x")]
        again: list[TestResponse] = []
        send_batch(client, alice, [event_for(alice)])
        commits = LossyCommits(monkeypatch, "before")
        commits.then = lambda: again.append(send_batch(client, alice, batch, "k"))

        assert send_batch(client, alice, batch, "k").headers["Idempotent-Replayed"] == "true"
        assert "Idempotent-Replayed" not in again[0].headers
        assert counted() == {"schema_validation_failed": 1}


class TestFlush:
    def test_project_and_source_are_those_of_the_key(self, refusals: Refusals, context: Context, alice: Tenant) -> None:
        before = datetime.now(UTC)
        for _ in range(3):
            refusals.count(_identity(alice), BadRequest())
        refusals.flush()

        (row,) = rows(context, "SELECT * FROM usage_outbox WHERE source_key_id = :id", id=alice.key_row)
        assert (row.project_id, row.source_id, row.events) == (alice.project_row, alice.source_row, 3)
        assert (row.outcome, row.payload_bytes, row.addresses) == ("bad_request", 0, None)
        assert before <= row.received_at <= datetime.now(UTC)

    def test_a_second_flush_writes_nothing_more(self, refusals: Refusals, context: Context, alice: Tenant) -> None:
        refusals.count(_identity(alice), BadRequest())
        for _ in range(3):
            refusals.flush()

        assert _counted(context, alice) == {"bad_request": 1}

    def test_a_row_that_belongs_to_another_key_after_a_restore_is_not_charged(
        self, refusals: Refusals, context: Context, alice: Tenant
    ) -> None:
        refusals.count(replace(_identity(alice), public_id="key_of_before"), BadRequest())
        refusals.flush()

        assert _counted(context, alice) == {}

    def test_threads_that_count_at_once_beside_flushes_lose_none(
        self, refusals: Refusals, context: Context, alice: Tenant
    ) -> None:
        def work(n: int) -> None:
            for _ in range(500):
                refusals.count(_identity(alice), BadRequest())
            if n % 2:
                refusals.flush()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        refusals.flush()

        assert _counted(context, alice) == {"bad_request": 4_000}

    def test_while_the_database_is_away_counts_wait_in_memory(
        self, refusals: Refusals, context: Context, settings: Settings, alice: Tenant
    ) -> None:
        away = Database("postgresql://nobody@127.0.0.1:1/nothing", pool_size=1)
        refusals._database = away  # noqa: SLF001 - the server goes and comes back
        for _ in range(2):
            refusals.count(_identity(alice), BadRequest())
            refusals.flush()
        refusals._database = context.database  # noqa: SLF001
        refusals.flush()

        assert _counted(context, alice) == {"bad_request": 2}

    @pytest.mark.parametrize("plan", [["after"], ["before"], ["after", "before", "after"], ["before", "before"]])
    def test_a_flush_whose_answer_was_lost_is_neither_lost_nor_counted_twice(
        self, refusals: Refusals, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch, plan: list[str]
    ) -> None:
        """`after`: it was committed; `before`: it was not. The worker folds meanwhile."""
        refusals.count(_identity(alice), BadRequest())
        commits = LossyCommits(monkeypatch, *plan)
        with ThreadPoolExecutor(1) as worker:
            while commits.plan:
                refusals.flush()
                worker.submit(fold_usage, context.database, repeatable=REPEATABLE).result()
        refusals.count(_identity(alice), BadRequest())
        refusals.flush()

        assert _counted(context, alice) == {"bad_request": 2}

    def test_a_flush_that_is_still_being_committed_is_waited_for(
        self, refusals: Refusals, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refusals.count(_identity(alice), BadRequest())
        LossyCommits(monkeypatch, "after")
        refusals.flush()
        (lost,) = rows(context, "SELECT * FROM usage_outbox WHERE source_key_id = :id", id=alice.key_row)
        execute(context, "DELETE FROM usage_outbox WHERE source_key_id = :id", id=alice.key_row)

        with ThreadPoolExecutor(1) as pool:
            with context.database.transaction(TenantScope.ALL) as running:
                running.add(UsageOutbox(**lost._asdict()))
                running.flush()
                repeated = pool.submit(refusals.flush)
                wait_until(lambda: rows(context, _WAITING_FOR_A_TRANSACTION))
            repeated.result()

        assert _counted(context, alice) == {"bad_request": 1}

    def test_a_repetition_for_which_the_database_is_away_is_repeated_again(
        self, refusals: Refusals, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refusals.count(_identity(alice), BadRequest())
        LossyCommits(monkeypatch, "after")
        refusals.flush()
        refusals._database = Database("postgresql://nobody@127.0.0.1:1/nothing", pool_size=1)  # noqa: SLF001
        refusals.flush()
        refusals._database = context.database  # noqa: SLF001
        refusals.flush()

        assert _counted(context, alice) == {"bad_request": 1}

    @pytest.mark.parametrize("fate", ["after", "before"])
    def test_a_flush_that_the_worker_may_have_folded_is_given_up_and_named(
        self, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch, fate: str
    ) -> None:
        refusals = Refusals(context.database, flush_seconds=None, repeat_seconds=0.0)
        refusals.count_events(_identity(alice), {"of_the_lost_flush": 3})
        LossyCommits(monkeypatch, fate)
        refusals.flush()
        fold_usage(context.database)
        refusals.count(_identity(alice), BadRequest())
        with logged_by("app.counting.flushed") as said:
            refusals.flush()

        assert _counted(context, alice) == {"bad_request": 1} | ({"of_the_lost_flush": 3} if fate == "after" else {})
        assert [(line["event"], line["events"]) for line in said] == [("refusals_perhaps_not_counted", 3)]

    def test_the_worker_leaves_a_flush_in_the_outbox_for_as_long_as_it_may_be_repeated(self) -> None:
        statement_seconds = 30

        assert REPEAT_SECONDS + statement_seconds < REPEATABLE.total_seconds()

    def test_memory_is_bounded_and_what_is_too_much_is_said_once_by_the_flush(
        self, context: Context, alice: Tenant
    ) -> None:
        """A request that is refused must not wait for a log, least of all on an event loop or under the mutex."""
        refusals = Refusals(context.database, flush_seconds=None, counts_max=2)
        with logged_by("app.counting.flushed") as said_at_once:
            refusals.count_events(_identity(alice), {"a": 1, "b": 2, "c": 3})
            refusals.count_events(_identity(alice), {"a": 1, "d": 4})
        with logged_by("app.counting.flushed") as said:
            for _ in range(2):
                refusals.flush()

        assert _counted(context, alice) == {"a": 2, "b": 2}
        assert said_at_once == []
        assert said == [{"event": "refusal_not_counted", "log_level": "warning", "events": 7}]


class TestProcess:
    def test_a_process_flushes_by_itself(self, context: Context, alice: Tenant) -> None:
        refusals = Refusals(context.database)
        for _ in range(2):
            refusals.count(_identity(alice), BadRequest())

        assert wait_until(lambda: _counted(context, alice) == {"bad_request": 2})

    def test_a_forked_child_leaves_its_parents_counts_to_the_parent(
        self, refusals: Refusals, context: Context, alice: Tenant
    ) -> None:
        refusals.count(_identity(alice), BadRequest())
        child = os.fork()
        if child == 0:  # pragma: no cover - in another process
            refusals.flush()
            refusals.count_events(_identity(alice), {"in_the_child": 1})
            refusals.flush()
            os._exit(0)
        os.waitpid(child, 0)
        refusals.flush()

        assert _counted(context, alice) == {"bad_request": 1, "in_the_child": 1}

    @pytest.fixture(name="server")
    def _server(self, settings: Settings, checkout: Path) -> Iterator[LiveServer]:
        with live_server(replace(settings, database_pool_size=4), checkout) as server:
            yield server

    def test_an_orderly_end_loses_none(self, server: LiveServer, context: Context, alice: Tenant) -> None:
        headers = {"X-API-Key": alice.key, "Content-Type": "application/json"}
        for _ in range(50):
            assert server.request("POST", PATH, b"not json", headers).status == 400
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(timeout=20)

        assert _counted(context, alice) == {"bad_request": 50}
        assert events_of(context, alice) == []
