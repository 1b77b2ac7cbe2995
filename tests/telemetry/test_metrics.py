"""What a process counts: every answer once, with labels of our own, and the times of the ingest path."""

import multiprocessing
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry, Histogram
from werkzeug.test import TestResponse

from app.config import Settings
from app.context import Context
from app.database.engine import Database, TenantScope
from app.errors import StorageUnavailable
from app.telemetry import metrics
from tests.support.counting import count_of, counts_of_this_process, growing, requests_in, sum_of
from tests.support.databases import close
from tests.support.people import Tenant, execute, issue_key, source_of
from tests.support.sending import PATH, event_for, send

_BATCH = f"{PATH}/batch"


@pytest.fixture(name="client", params=["fast path on", "fast path off"])
def _client(app: Flask, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    monkeypatch.setattr(app.wsgi_app, "is_on", request.param == "fast path on")
    return app.test_client()


def _send_batch(client: FlaskClient, tenant: Tenant, *events: object, key: str = "b") -> TestResponse:
    headers = {"X-API-Key": tenant.key, "Idempotency-Key": key}
    return client.post(_BATCH, json={"events": list(events)}, headers=headers)


Step = Callable[[FlaskClient, Tenant], object]


def _event(**changes: object) -> Step:
    return lambda client, tenant: send(client, tenant, event_for(tenant, **changes))


def _keyed(client: FlaskClient, tenant: Tenant) -> TestResponse:
    return send(client, tenant, idempotency_key="k")


def _batch(*changes: dict[str, object]) -> Step:
    return lambda client, tenant: _send_batch(client, tenant, *(event_for(tenant, **each) for each in changes))


_KNOWN = _event(event_id="e")
_WRONG: dict[str, object] = {"severity": "x"}
_STEPS: dict[str, tuple[list[Step], tuple[str, str, str]]] = {
    "a stored event": ([_event()], ("POST", PATH, "stored")),
    "a duplicate": ([_KNOWN, _KNOWN], ("POST", PATH, "duplicate")),
    "a replay": ([_keyed, _keyed], ("POST", PATH, "replayed")),
    "other content": ([_KNOWN, _event(event_id="e", payload={})], ("POST", PATH, "duplicate_event")),
    "another source": ([_event(), _event(source_id="src_x")], ("POST", PATH, "source_mismatch")),
    "a wrong event": ([_event(**_WRONG)], ("POST", PATH, "schema_validation_failed")),
    "no JSON": ([lambda c, a: send(c, a, "{")], ("POST", PATH, "bad_request")),
    "a forged key": ([lambda c, a: send(c, a, key="lrb_sk_x")], ("POST", PATH, "invalid_source_key")),
    "a batch": ([_batch({}, _WRONG)], ("POST", _BATCH, "accepted")),
    "a replayed batch": ([_batch({}), _batch({})], ("POST", _BATCH, "replayed")),
    "a refused batch": ([_batch()], ("POST", _BATCH, "schema_validation_failed")),
    "an unknown path": ([lambda c, a: c.get(f"/v1/{a.key_id}")], ("unmatched", "unmatched", "not_found")),
    "an unknown method": ([lambda c, _: c.open(PATH, method="BREW")], ("unmatched", "unmatched", "method_not_allowed")),
    "an unknown object": (
        [lambda c, a: c.get("/v1/sources/src_of_nobody", headers=a.bearer)],
        ("GET", "/v1/sources/{source_id}", "not_found"),
    ),
    "a list": ([lambda c, a: c.get("/v1/projects", headers=a.bearer)], ("GET", "/v1/projects", "2xx")),
    "an OPTIONS": ([lambda c, _: c.options(PATH)], ("OPTIONS", PATH, "2xx")),
    "a question for the health": ([lambda c, _: c.get("/healthz")], ("GET", "/healthz", "2xx")),
    "a scrape": ([lambda c, _: c.get("/metrics")], ("GET", "/metrics", "2xx")),
}


@pytest.mark.parametrize(("steps", "counted"), _STEPS.values(), ids=_STEPS.keys())
def test_an_answer_is_counted_once_whichever_path_it_took(
    client: FlaskClient, alice: Tenant, steps: list[Step], counted: tuple[str, str, str]
) -> None:
    for step in steps[:-1]:
        step(client, alice)

    with growing() as growth:
        steps[-1](client, alice)

    assert requests_in(growth) == {counted: 1}
    method, route, _ = counted
    assert count_of(growth, "lariba_request_seconds_count", method=method, route=route) == 1


def test_the_second_event_of_a_key_takes_the_fast_path_and_is_counted_once(client: FlaskClient, alice: Tenant) -> None:
    send(client, alice)

    with growing() as growth:
        answers = [send(client, alice) for _ in range(20)]

    assert {answer.status_code for answer in answers} == {201}
    assert requests_in(growth) == {("POST", PATH, "stored"): 20}
    assert sum_of(growth, "lariba_group_events_sum") == 20
    for name in ("lariba_group_events", "lariba_commit_seconds", "lariba_queue_wait_seconds"):
        assert count_of(growth, f"{name}_count") == 20, name
    assert 0 < count_of(growth, "lariba_queue_wait_seconds_sum") < 20
    assert count_of(growth, "lariba_key_lookups_total", found="memory") == 20


def test_a_key_is_found_in_the_database_once_and_then_in_memory(
    client: FlaskClient, context: Context, alice: Tenant
) -> None:
    with growing() as issued:
        _, _, key = issue_key(context, source_of(context, alice))
    with growing() as first:
        send(client, alice, key=key)
    with growing() as second:
        send(client, alice, key=key)

    assert count_of(issued, "lariba_argon2_runs_total", purpose="issue") == 1
    assert sum_of(first, "lariba_argon2_runs_total") == 0
    assert count_of(first, "lariba_key_lookups_total", found="database") == 1
    assert sum_of(second, "lariba_argon2_runs_total") == 0
    assert count_of(second, "lariba_key_lookups_total", found="memory") == 1


def test_a_key_whose_row_has_no_digest_is_found_nowhere_and_proven_by_argon2(
    client: FlaskClient, context: Context, alice: Tenant
) -> None:
    execute(context, "UPDATE source_keys SET secret_digest = NULL WHERE id = :id", id=alice.key_row)
    with growing() as growth:
        send(client, alice)

    assert count_of(growth, "lariba_argon2_runs_total", purpose="prove") == 1
    assert count_of(growth, "lariba_key_lookups_total", found="nowhere") == 1


def test_what_goes_to_flask_counts_its_key_once(client: FlaskClient, alice: Tenant) -> None:
    send(client, alice)

    with growing() as growth:
        send(client, alice, event_for(alice, source_id="src_x"))

    assert sum_of(growth, "lariba_key_lookups_total") == 1


def test_the_events_of_a_batch_are_counted_by_verdict_and_not_again_when_it_is_replayed(
    client: FlaskClient, alice: Tenant
) -> None:
    events = [event_for(alice, event_id="e"), event_for(alice, event_id="e"), event_for(alice, severity="x")]

    with growing() as growth:
        _send_batch(client, alice, *events)
        _send_batch(client, alice, *events)

    assert {
        verdict: count_of(growth, "lariba_batch_events_total", verdict=verdict)
        for verdict in ("stored", "duplicate", "rejected")
    } == {"stored": 1, "duplicate": 1, "rejected": 1}


def test_the_pool_says_how_many_of_its_connections_are_in_use_and_how_many_there_may_be(settings: Settings) -> None:
    database = Database(settings.database_url, pool_size=3, application_name="a test")

    def gauges() -> tuple[float, float]:
        counts = counts_of_this_process()
        in_use, most = "lariba_pool_connections_in_use", "lariba_pool_connections_max"
        return count_of(counts, in_use, program="a test"), count_of(counts, most, program="a test")

    assert gauges() == (0, 0)
    with database.transaction(TenantScope.NONE):
        assert gauges() == (1, 3)
        lost = database.engine.raw_connection()
        assert gauges() == (2, 3)
        lost.invalidate()
    assert gauges() == (0, 3)
    close(database)
    assert gauges() == (0, 0)


def test_a_transaction_that_gets_no_connection_is_counted(settings: Settings) -> None:
    database = Database(settings.database_url, pool_size=1, application_name="another test")

    def use_it() -> None:
        with database.transaction(TenantScope.NONE):
            pass

    with growing() as growth, database.transaction(TenantScope.NONE), pytest.raises(StorageUnavailable):
        use_it()

    assert count_of(growth, "lariba_pool_timeouts_total", program="another test") == 1
    close(database)


def test_many_values_at_once_are_counted_as_one_by_one() -> None:
    seconds = [0.0, 0.001, 0.0011, 0.4, 0.5, 7.0, 7.0]
    one_by_one, at_once = CollectorRegistry(), CollectorRegistry()
    expected = Histogram("h", "h", buckets=(0.001, 0.5, 1.0), registry=one_by_one)
    histogram = metrics.BulkHistogram("h", "h", buckets=(0.001, 0.5, 1.0), registry=at_once)

    for value in seconds:
        expected.observe(value)
    histogram.observe_all(seconds)

    assert [it.samples for it in at_once.collect()] == [it.samples for it in one_by_one.collect()]


def test_what_is_buffered_is_counted_once() -> None:
    counted: list[str] = []
    buffer = metrics.MetricBuffer[str](counted.extend)

    buffer.add("a")
    buffer.add("b")
    buffer.flush()
    buffer.flush()

    assert counted == ["a", "b"]


def test_threads_that_flush_at_once_count_each_item_once() -> None:
    """The thread that flushes twenty times a second meets a scrape, and the end of the process."""
    counted: list[int] = []
    buffer = metrics.MetricBuffer[int](counted.extend)
    together = threading.Barrier(4)

    def flush() -> None:
        together.wait()
        buffer.flush()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            for begin in range(0, 20_000, 1_000):
                for item in range(begin, begin + 1_000):
                    buffer.add(item)
                for done in [pool.submit(flush) for _ in range(4)]:
                    done.result()
    finally:
        sys.setswitchinterval(interval)

    assert sorted(counted) == list(range(20_000))


def test_a_flush_waits_for_what_another_thread_is_counting() -> None:
    """Or a scrape would miss it."""
    counted: list[str] = []
    is_counting, may_count = threading.Event(), threading.Event()

    def count(items: list[str]) -> None:
        is_counting.set()
        assert may_count.wait(10)
        counted.extend(items)

    buffer = metrics.MetricBuffer[str](count)

    def flush() -> list[str]:
        buffer.flush()
        return list(counted)

    buffer.add("taken")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(buffer.flush)
        assert is_counting.wait(10)
        second = pool.submit(flush)
        may_count.set()
        first.result()

        assert second.result() == ["taken"]


def test_a_forked_child_does_not_count_what_its_parent_has_buffered() -> None:
    counted: list[str] = []
    buffer = metrics.MetricBuffer[str](counted.extend)
    buffer.add("of the parent")

    def count_in_child(results: "multiprocessing.queues.SimpleQueue[list[str]]") -> None:
        # The parent may have been quick to flush.
        counted.clear()
        buffer.add("of the child")
        buffer.flush()
        results.put(counted)

    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    child = fork.Process(target=count_in_child, args=(results,))
    child.start()

    assert results.get() == ["of the child"]
    child.join()


def test_no_label_holds_what_a_caller_chose(client: FlaskClient, alice: Tenant) -> None:
    send(client, alice)
    client.get(f"/v1/sources/{alice.source_id}", headers=alice.bearer)
    client.get(f"/{alice.key_id}")

    page = client.get("/metrics").get_data(as_text=True)

    for value in (alice.key, alice.key_id, alice.source_id, alice.workspace_id, alice.token, alice.token_id):
        assert value not in page
