"""The fast path: it answers what it has begun, refusals and crashes too, exactly as Flask's routes answer."""

import asyncio
import io
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.context import Context
from app.credentials.verification import Identity
from app.ingest.envelope import Attempt
from app.ingest.fast_path import FastPath
from app.ingest.pending_write import WriteResult
from app.ingest.services import EXTENSION as INGEST
from app.ingest.storage import Verdict
from app.telemetry.metrics import REGISTRY, flush
from tests.ingest.test_policies import limit
from tests.support.people import Tenant, events_of, execute
from tests.support.sending import PATH, error_of, event_for, send

Answer = tuple[int, dict[str, str], dict[str, Any]]


@pytest.fixture(name="client")
def _client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture(name="fast_path")
def _fast_path(app: Flask) -> FastPath:
    assert isinstance(app.wsgi_app, FastPath)
    return app.wsgi_app


def _crash(*_: object, **__: object) -> None:
    raise RecursionError("an inner detail")


@pytest.mark.parametrize("step", ["fast_path.client_address", "event.read_common_envelope", "event.uuid7"])
def test_a_crash_before_the_event_is_stored_is_a_500_that_is_counted(
    client: FlaskClient, context: Context, alice: Tenant, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert send(client, alice).status_code == 201  # the key is known from here on
    before = _counted("internal_error")
    monkeypatch.setattr(f"app.ingest.{step}", _crash)

    response = send(client, alice, headers={"X-Request-ID": "mine"})

    assert (response.status_code, error_of(response)["code"]) == (500, "internal_error")
    assert error_of(response)["request_id"] == "mine"
    assert b"an inner detail" not in response.data
    assert _counted("internal_error") == before + 1
    assert len(events_of(context, alice)) == 1


def test_a_crash_before_the_request_is_taken_leaves_it_to_flask(
    client: FlaskClient, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert send(client, alice).status_code == 201
    monkeypatch.setattr("app.ingest.fast_path.request_id_from", _crash)

    assert send(client, alice).status_code == 201
    assert len(events_of(context, alice)) == 2


@pytest.mark.parametrize("step", ["fast_path._ANSWERS.add", "event.uuid7"])
def test_an_answer_on_an_event_loop_is_given_once_whatever_crashes(
    app: Flask, fast_path: FastPath, context: Context, alice: Tenant, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert send(app.test_client(), alice).status_code == 201
    monkeypatch.setattr(f"app.ingest.{step}", _crash)

    status, headers, body = _answer_on_a_loop(app, fast_path, alice)

    stored = step == "fast_path._ANSWERS.add"
    assert status == (201 if stored else 500)
    assert body.get("status") == ("stored" if stored else None)
    assert headers["X-Request-ID"] == "mine"
    assert len(events_of(context, alice)) == 1 + stored


def test_a_committer_that_cannot_begin_is_a_500(
    app: Flask, fast_path: FastPath, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = app.test_client()
    assert send(client, alice).status_code == 201
    monkeypatch.setattr(app.extensions[INGEST].committer, "submit", _crash)

    assert _answer_on_a_loop(app, fast_path, alice)[0] == 500
    assert send(client, alice).status_code == 500


def _revoke(context: Context, tenant: Tenant) -> dict[str, Any]:
    execute(context, "UPDATE source_keys SET revoked_at = now() WHERE id = :id", id=tenant.key_row)
    return event_for(tenant)


def _restrict(context: Context, tenant: Tenant) -> dict[str, Any]:
    limit(context, tenant, allowed_event_types=["payment.*"])
    return event_for(tenant, event_type="order.placed")


def _disable(context: Context, tenant: Tenant) -> dict[str, Any]:
    execute(context, "UPDATE sources SET disabled_at = now() WHERE id = :id", id=tenant.source_row)
    return event_for(tenant)


_REFUSED: dict[str, Callable[[Context, Tenant], Any]] = {
    "no JSON": lambda _, __: "no JSON",
    "an empty body": lambda _, __: "",
    "an envelope with faults": lambda _, tenant: event_for(tenant, severity="loud", more=1),
    "a payload too deep": lambda _, tenant: event_for(tenant, payload={"v": json.loads("[" * 40 + "]" * 40)}),
    "another source": lambda _, tenant: event_for(tenant, source_id="src_other"),
    "another environment": lambda _, tenant: event_for(tenant, environment="staging"),
    "a type that the key may not send": _restrict,
    "a revoked key": _revoke,
    "a revoked key with a wrong event": lambda context, tenant: [_revoke(context, tenant), "no JSON"][1],
    "a source out of use": _disable,
}


@pytest.mark.parametrize("accept", ["*/*", "application/problem+json"])
@pytest.mark.parametrize("what", _REFUSED)
def test_it_refuses_as_flask_does(
    client: FlaskClient, fast_path: FastPath, context: Context, alice: Tenant, what: str, accept: str
) -> None:
    assert send(client, alice).status_code == 201
    body = _REFUSED[what](context, alice)
    headers = {"X-Request-ID": "mine", "Accept": accept}
    before = _counted_in_all()
    fast = send(client, alice, body, headers=headers)
    fast_path.is_on = False
    try:
        slow = send(client, alice, body, headers=headers)
    finally:
        fast_path.is_on = True

    assert fast.status_code >= 400
    assert (fast.status_code, fast.data) == (slow.status_code, slow.data)
    assert dict(fast.headers) == dict(slow.headers)
    code = fast.json["title"] if accept != "*/*" else error_of(fast)["code"]  # type: ignore[index]
    assert _counted_in_all() - before == {code: 2}


@pytest.mark.parametrize("header", ["", '"', "k" * 256])
def test_it_refuses_an_idempotency_key_as_flask_does(
    client: FlaskClient, fast_path: FastPath, alice: Tenant, header: str
) -> None:
    assert send(client, alice).status_code == 201
    answers = []
    for is_on in (True, False):
        fast_path.is_on = is_on
        answers.append(send(client, alice, headers={"Idempotency-Key": header, "X-Request-ID": "mine"}))
    fast_path.is_on = True

    fast, slow = answers
    assert (fast.status_code, fast.data, dict(fast.headers)) == (slow.status_code, slow.data, dict(slow.headers))
    assert fast.status_code == 400


class _LoopWaits:
    """Waits of an event loop: the commit comes from another thread."""

    def __init__(self, app: Flask, body: bytes) -> None:
        self._committer = app.extensions[INGEST].committer
        self._body = body

    async def body(self) -> bytes:
        await asyncio.sleep(0)
        return self._body

    async def discard_body(self) -> None:
        """It has been read."""

    async def run(self, work: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(work)

    async def stored(self, identity: Identity, attempt: Attempt) -> Verdict:
        loop = asyncio.get_running_loop()
        decided: asyncio.Future[WriteResult] = loop.create_future()
        self._committer.submit(identity, attempt, lambda result: loop.call_soon_threadsafe(decided.set_result, result))
        verdict = await decided
        assert isinstance(verdict, Verdict)
        return verdict


def _answer_on_a_loop(app: Flask, fast_path: FastPath, tenant: Tenant) -> Answer:
    body = json.dumps(event_for(tenant)).encode()
    environ = app.test_request_context(
        PATH, method="POST", data=body, content_type="application/json", headers={"X-Request-ID": "mine"}
    ).request.environ | {"HTTP_X_API_KEY": tenant.key, "wsgi.input": io.BytesIO(body)}
    pending = fast_path.begin(environ)
    assert pending is not None
    status, headers, content = asyncio.run(fast_path.answer(pending, _LoopWaits(app, body)))
    return status, dict(headers), json.loads(content)


def _counted(outcome: str) -> float:
    return _counted_in_all()[outcome]


def _counted_in_all() -> Counter[str]:
    """Requests to the ingest route by outcome, of all methods together: receipts are read there too."""
    flush()
    counted: Counter[str] = Counter()
    for metric in REGISTRY.collect():
        for sample in metric.samples:
            if sample.name == "lariba_requests_total" and sample.labels.get("route") == PATH:
                counted[sample.labels["outcome"]] += sample.value  # type: ignore[assignment]
    return counted
