"""POST /v1/events/ingest/batch: processes and connections that die at the worst moment."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.config import Settings
from app.context import Context
from app.ingest.storage import Execute, Outcome, Verdict, store
from tests.ingest.test_batch import body_of, send_batch, statuses_of, usage_of, verdicts_of
from tests.support.live import environment_of
from tests.support.lossy_commits import LossyCommits
from tests.support.people import Tenant, events_of, execute
from tests.support.sending import error_of, event_for

pytestmark = pytest.mark.wiring

# A web process that has done everything but commit; the test kills it there.
_HANG_BEFORE_COMMIT = """
import sys
import threading
from sqlalchemy.orm import Session
from tests.ingest.test_batch import BATCH_PATH
from wsgi import app

key, body = sys.argv[1:]
client = app.test_client()
headers = {"X-API-Key": key, "Idempotency-Key": "k"}
assert client.post(BATCH_PATH, data="warms", headers=headers, content_type="application/json").status_code == 400

commit = Session.commit

def hang(session):
    if threading.current_thread() is not threading.main_thread():  # refusals are counted on a thread of their own
        return commit(session)
    print("written", flush=True)
    sys.stdin.read()

Session.commit = hang
client.post(BATCH_PATH, data=body, headers=headers, content_type="application/json")
"""


@pytest.fixture(name="client")
def _client(app: Flask, alice: Tenant) -> FlaskClient:
    """With alice's key cached: only a batch's own commits are left."""
    client = app.test_client()
    assert send_batch(client, alice, b"caches the key").status_code == 400
    return client


@contextmanager
def _a_web_process_before_its_commit(settings: Settings, checkout: Path, key: str, body: bytes) -> Iterator[None]:
    """It has written a batch under the key "k" and holds its claims, until the block ends it with SIGKILL."""
    command = [sys.executable, "-c", _HANG_BEFORE_COMMIT, key, body.decode()]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=checkout, env=environment_of(settings), **pipes) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline() == "written\n"
            yield
        finally:
            process.kill()


def test_kill_9_in_the_middle_of_a_batch_leaves_nothing_and_the_retry_stores_each_once(
    client: FlaskClient, context: Context, settings: Settings, checkout: Path, alice: Tenant
) -> None:
    events = [event_for(alice, event_id=f"e{n}") for n in range(100)]
    with _a_web_process_before_its_commit(settings, checkout, alice.key, body_of(events)):
        pass

    assert events_of(context, alice) == []
    retry = send_batch(client, alice, events, "k")

    assert (statuses_of(retry), retry.headers.get("Idempotent-Replayed")) == (["stored"] * 100, None)
    assert len(events_of(context, alice)) == 100


def test_a_batch_that_hangs_before_its_commit_holds_up_its_own_key_and_events_only(
    client: FlaskClient, settings: Settings, checkout: Path, alice: Tenant
) -> None:
    events = [event_for(alice, event_id="e")]
    with _a_web_process_before_its_commit(settings, checkout, alice.key, body_of(events)):
        same_key = send_batch(client, alice, events, "k")
        same_event = send_batch(client, alice, [event_for(alice), *events])
        other = send_batch(client, alice, [event_for(alice)], "another")

    for response in (same_key, same_event):
        assert (response.status_code, error_of(response)["code"]) == (409, "idempotency_in_progress")
    assert statuses_of(other) == ["stored"]


@pytest.fixture(name="commits")
def _lossy_commits(monkeypatch: pytest.MonkeyPatch) -> Iterator[LossyCommits]:
    commits = LossyCommits(monkeypatch)
    yield commits
    assert commits.plan == []


def _batch(tenant: Tenant) -> list[object]:
    """Of every sort: stored, stored under an id of ours, duplicate, rejected by the database, and by the reader."""
    known = [event_for(tenant, event_id="e", payload={"n": n}) for n in (1, 1, 2)]
    return [known[0], event_for(tenant, payload={"n": 1}), *known[1:], event_for(tenant, severity="loud")]


_VERDICTS = ["stored", "stored", "duplicate", "duplicate_event", "schema_validation_failed"]


@pytest.mark.parametrize("plan", [["after"], ["before"], ["after", "after"], ["before", "after", "before"]])
@pytest.mark.parametrize("key", [None, "k"])
def test_a_commit_whose_answer_was_lost_is_found_out_and_answered_as_the_first(
    client: FlaskClient, context: Context, alice: Tenant, commits: LossyCommits, plan: list[str], key: str | None
) -> None:
    commits.plan += plan

    response = send_batch(client, alice, _batch(alice), key)

    assert (statuses_of(response), response.headers.get("Idempotent-Replayed")) == (_VERDICTS, None)
    assert {it.event_id for it in events_of(context, alice)} == {it["event_id"] for it in verdicts_of(response)[:2]}
    assert usage_of(context, alice) == {("stored", 2, 16), ("duplicate", 1, 8)}


def test_what_is_found_out_is_what_is_replayed(client: FlaskClient, alice: Tenant, commits: LossyCommits) -> None:
    commits.plan += ["before", "after"]
    first = send_batch(client, alice, _batch(alice), "k")
    commits.plan += ["after", "before"]

    again = send_batch(client, alice, _batch(alice), "k")

    assert (again.data, again.headers["Idempotent-Replayed"]) == (first.data, "true")


@pytest.mark.parametrize("plan", [["after"], ["before", "after"]])
def test_an_atomic_batch_is_found_out_too(
    client: FlaskClient, context: Context, alice: Tenant, commits: LossyCommits, plan: list[str]
) -> None:
    commits.plan += plan

    assert statuses_of(send_batch(client, alice, _batch(alice)[:3], query="?atomic=true")) == _VERDICTS[:3]
    assert len(events_of(context, alice)) == 2


_CHANGES = [
    "UPDATE source_keys SET revoked_at = now() WHERE id = :key",
    "UPDATE sources SET disabled_at = now() WHERE id = :source",
    "UPDATE workspaces SET status = 'suspended' WHERE id = :workspace",
]


@pytest.mark.parametrize("change", _CHANGES)
@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("is_committed", [True, False])
def test_what_was_committed_is_said_to_be_stored_whatever_was_taken_away_since(
    client: FlaskClient,
    context: Context,
    alice: Tenant,
    commits: LossyCommits,
    change: str,
    key: str | None,
    *,
    is_committed: bool,
) -> None:
    """The commit's answer is lost, and the right to send goes before the server can ask again."""
    named = {"key": alice.key_row, "source": alice.source_row, "workspace": alice.workspace_row}
    changed = {name: row for name, row in named.items() if f":{name}" in change}
    commits.then = lambda: execute(context, change, **changed)
    commits.plan += ["after" if is_committed else "before"]

    response = send_batch(client, alice, _batch(alice), key)

    assert response.status_code in ((200,) if is_committed else (401, 403))
    assert not is_committed or statuses_of(response) == _VERDICTS
    assert len(events_of(context, alice)) == (2 if is_committed else 0)


def test_an_outcome_that_stays_unknown_is_said_to_be_so_and_the_retry_settles_it(
    client: FlaskClient, context: Context, alice: Tenant, commits: LossyCommits, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = [0.0]
    step = context.settings.storage_deadline_seconds * 0.4
    clock = SimpleNamespace(
        monotonic=lambda: time.monotonic() + passed[0], sleep=lambda _: passed.__setitem__(0, passed[0] + step)
    )
    monkeypatch.setattr("app.ingest.batch.transaction.time", clock)
    commits.plan += ["after"] * 4

    response = send_batch(client, alice, _batch(alice), "k")

    assert (response.status_code, error_of(response)["code"]) == (503, "storage_unavailable")
    assert "while it committed" in error_of(response)["message"]
    commits.plan.clear()
    assert statuses_of(send_batch(client, alice, _batch(alice), "k")) == _VERDICTS
    assert len(events_of(context, alice)) == 2


@pytest.mark.parametrize("obstacle", ["raced", "deadlock_detected", "serialization_failure"])
@pytest.mark.parametrize("key", [None, "k"])
def test_what_stood_in_the_way_and_has_gone_is_met_with_another_try(
    client: FlaskClient,
    context: Context,
    alice: Tenant,
    monkeypatch: pytest.MonkeyPatch,
    obstacle: str,
    key: str | None,
) -> None:
    """PostgreSQL ends one of two transactions that wait for each other, or an obstacle vanishes when looked at."""
    monkeypatch.setattr("app.ingest.batch.storing.store", _Stumbling(obstacle))

    response = send_batch(client, alice, _batch(alice), key)

    assert (statuses_of(response), response.headers.get("Idempotent-Replayed")) == (_VERDICTS, None)
    assert len(events_of(context, alice)) == 2
    assert usage_of(context, alice) == {("stored", 2, 16), ("duplicate", 1, 8)}


class _Stumbling:
    """Stores, and comes upon an obstacle the first time."""

    def __init__(self, obstacle: str) -> None:
        self._obstacles = [obstacle]

    def __call__(self, execute: Execute, attempts: Sequence[Any], **limits: Any) -> list[Verdict]:
        verdicts = store(execute, attempts, **limits)
        obstacle = self._obstacles.pop() if self._obstacles else None
        if obstacle == "raced":
            verdicts[-1] = Verdict(Outcome.RACED, None)
        elif obstacle:
            execute(f"DO $$ BEGIN RAISE {obstacle}; END $$", ())
        return verdicts
