"""POST /v1/events/ingest: processes and connections that die at the worst moment."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from flask.testing import FlaskClient

from app.config import Settings
from app.context import Context
from app.database.dedicated_connection import DedicatedConnection
from app.errors import OutcomeUnknown
from app.maintenance.usage import REPEATABLE, fold_usage
from tests.support.live import environment_of
from tests.support.people import Tenant, events_of, execute, rows
from tests.support.sending import error_of, event_for, send
from tests.support.servers import ENDED

pytestmark = pytest.mark.wiring

# A web process that runs its statement and then never commits; the test kills it there.
_HANG_BEFORE_COMMIT = """
import sys
from app.database.dedicated_connection import DedicatedConnection
from tests.support.sending import PATH
from wsgi import app

key, body = sys.argv[1:]

def run_and_hang(connection, statement, parameters, deadline):
    connection = connection._connect()
    connection.autocommit = False
    refusals = connection.execute(statement, parameters).fetchall()
    print(refusals or "stored", flush=True)
    sys.stdin.read()

DedicatedConnection.run = run_and_hang
headers = {"X-API-Key": key, "Idempotency-Key": "k"}
app.test_client().post(PATH, data=body, headers=headers, content_type="application/json")
"""


@contextmanager
def _a_web_process_before_its_commit(settings: Settings, checkout: Path, key: str, event: object) -> Iterator[None]:
    """It has run its statement and holds its claims, until the block ends it with SIGKILL."""
    command = [sys.executable, "-c", _HANG_BEFORE_COMMIT, key, json.dumps(event)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    # Or its time keeper would answer, and it would end by itself.
    environment = environment_of(replace(settings, storage_deadline_seconds=60.0))
    with subprocess.Popen(command, cwd=checkout, env=environment, **pipes) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline() == "stored\n"
            yield
        finally:
            process.kill()


def test_kill_9_between_statement_and_commit_leaves_no_orphan_and_the_retry_stores_once(
    client: FlaskClient, context: Context, settings: Settings, checkout: Path, alice: Tenant
) -> None:
    event = event_for(alice, event_id="e")
    with _a_web_process_before_its_commit(settings, checkout, alice.key, event):
        pass

    assert events_of(context, alice) == []
    retry = send(client, alice, event, idempotency_key="k")

    assert (retry.status_code, retry.headers.get("Idempotent-Replayed")) == (201, None)
    assert len(events_of(context, alice)) == 1


def test_a_request_that_hangs_before_its_commit_holds_up_its_own_key_only(
    client: FlaskClient, settings: Settings, checkout: Path, alice: Tenant
) -> None:
    event = event_for(alice, event_id="e")
    with _a_web_process_before_its_commit(settings, checkout, alice.key, event):
        same = send(client, alice, event, idempotency_key="k")
        other = send(client, alice, event_for(alice), idempotency_key="another")

    assert same.status_code == 409
    assert error_of(same)["code"] == "idempotency_in_progress"
    assert (error_of(same)["retryable"], same.headers["Retry-After"]) == (True, "1")
    assert other.status_code == 201


def _used(context: Context, tenant: Tenant) -> dict[str, int]:
    counts = "SELECT outcome, events FROM {} WHERE project_id = :id"
    both = " UNION ALL ".join(counts.format(table) for table in ("usage_outbox", "usage_hours"))
    summed = f"SELECT outcome, sum(events)::integer AS events FROM ({both}) AS used GROUP BY 1"
    return {row.outcome: row.events for row in rows(context, summed, id=tenant.project_row)}


@pytest.fixture(name="lost_commits")
def _lost_commits(context: Context, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Groups listed here go wrong, in this order: `after` commits and loses the answer, `before` loses the request.

    And the worker folds usage before they are made again.
    """
    plan: list[str] = []
    run = DedicatedConnection.run

    def lose(connection: DedicatedConnection, statement: str, parameters: Sequence[Any], deadline: float) -> list[Any]:
        how = plan.pop(0) if plan else None
        if how != "before":
            answer = run(connection, statement, parameters, deadline)
        if how:
            connection.close()
            fold_usage(context.database, repeatable=REPEATABLE)
            raise OutcomeUnknown
        return answer

    monkeypatch.setattr(DedicatedConnection, "run", lose)
    yield plan
    assert plan == []


@pytest.mark.parametrize("plan", [["after"], ["before"], ["after", "after"], ["before", "after", "before"]])
@pytest.mark.parametrize("idempotency_key", [None, "k"])
@pytest.mark.parametrize("event_id", [None, "e"])
def test_a_commit_whose_answer_was_lost_is_found_out_and_answered_as_the_first(  # noqa: PLR0917
    client: FlaskClient,
    context: Context,
    alice: Tenant,
    lost_commits: list[str],
    plan: list[str],
    idempotency_key: str | None,
    event_id: str | None,
) -> None:
    send(client, alice, "caches the key")
    lost_commits += plan

    response = send(client, alice, event_for(alice, event_id=event_id), idempotency_key=idempotency_key)

    assert (response.status_code, response.headers.get("Idempotent-Replayed")) == (201, None)
    assert '"status": "stored"' in response.get_data(as_text=True)
    (stored,) = events_of(context, alice)
    assert stored.event_id == _body(response)["event_id"]
    assert _used(context, alice) == {"stored": 1}


def test_a_duplicate_whose_commit_was_lost_is_answered_as_a_duplicate(
    client: FlaskClient, alice: Tenant, lost_commits: list[str]
) -> None:
    event = event_for(alice, event_id="e")
    send(client, alice, event)
    lost_commits += ["after"]

    response = send(client, alice, event, idempotency_key="k")

    assert (response.status_code, _body(response)["status"]) == (200, "duplicate")
    assert "Idempotent-Replayed" not in response.headers


@pytest.mark.parametrize("plan", [["after"], ["before"], ["after", "before", "after"]])
@pytest.mark.parametrize(("idempotency_key", "answer"), [("k", 201), (None, 200)])
def test_a_replay_or_a_duplicate_whose_commit_was_lost_is_answered_as_such(  # noqa: PLR0917
    client: FlaskClient,
    context: Context,
    alice: Tenant,
    lost_commits: list[str],
    plan: list[str],
    idempotency_key: str | None,
    answer: int,
) -> None:
    event = event_for(alice, event_id="e")
    send(client, alice, event, idempotency_key="k")
    lost_commits += plan

    response = send(client, alice, event, idempotency_key=idempotency_key)

    assert response.status_code == answer
    assert _used(context, alice) == {"stored": 1, "replayed" if idempotency_key else "duplicate": 1}


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE source_keys SET revoked_at = now() WHERE id = :key",
        "UPDATE sources SET disabled_at = now() WHERE id = :source",
        "UPDATE workspaces SET status = 'suspended' WHERE id = :workspace",
    ],
)
def test_an_event_that_was_committed_is_said_to_be_stored_whatever_was_taken_away_since(
    client: FlaskClient, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The commit's answer is lost, and the right to send goes before the server can ask again."""
    send(client, alice, "caches the key")
    run = DedicatedConnection.run
    named = {"key": alice.key_row, "source": alice.source_row, "workspace": alice.workspace_row}
    changed = {name: row for name, row in named.items() if f":{name}" in change}

    def lose(connection: DedicatedConnection, statement: str, parameters: Sequence[Any], deadline: float) -> list[Any]:
        monkeypatch.setattr(DedicatedConnection, "run", run)
        run(connection, statement, parameters, deadline)
        connection.close()
        execute(context, change, **changed)
        raise OutcomeUnknown

    monkeypatch.setattr(DedicatedConnection, "run", lose)

    assert send(client, alice, idempotency_key="k").status_code == 201
    assert len(events_of(context, alice)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("is_first_lost", "code"), [(True, "storage_unavailable"), (False, "idempotency_in_progress")])
def test_after_an_unanswered_commit_a_claim_in_the_way_is_no_other_request(  # noqa: PLR0917
    client: FlaskClient,
    alice: Tenant,
    settings: Settings,
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_first_lost: bool,  # noqa: FBT001
    code: str,
) -> None:
    """It may be our own, still being committed: then the outcome is unknown, not another's."""
    send(client, alice, "caches the key")
    event = event_for(alice, event_id="e")
    run = DedicatedConnection.run

    def lose_first(
        connection: DedicatedConnection, statement: str, parameters: Sequence[Any], deadline: float
    ) -> list[Any]:
        if is_first_lost and not lost:
            lost.append(connection)
            raise OutcomeUnknown
        return run(connection, statement, parameters, deadline)

    lost: list[DedicatedConnection] = []
    monkeypatch.setattr(DedicatedConnection, "run", lose_first)
    with _a_web_process_before_its_commit(settings, checkout, alice.key, event):
        response = send(client, alice, event, idempotency_key="k")

    assert error_of(response)["code"] == code
    assert ("while it committed" in error_of(response)["message"]) == is_first_lost


def test_a_stopped_database_connection_in_the_pool_costs_no_request(
    client: FlaskClient, settings: Settings, alice: Tenant
) -> None:
    assert send(client, alice).status_code == 201
    with psycopg.connect(settings.database_url, autocommit=True) as same_role:
        same_role.execute(f"SELECT {ENDED} FROM {_OTHER_SESSIONS}")

    assert send(client, alice).status_code == 201


_OTHER_SESSIONS = "pg_stat_activity WHERE datname = current_database() AND application_name = 'lariba-web'"


def _body(response: Any) -> dict[str, Any]:
    assert isinstance(response.json, dict)
    return response.json
