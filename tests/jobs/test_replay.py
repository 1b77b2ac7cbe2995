"""A replay stores each original once, in order and unchanged, whatever happens on the way."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from threading import Thread
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import psycopg
import pytest
from celery.exceptions import SoftTimeLimitExceeded
from flask import Flask
from sqlalchemy import text

from app.context import Context
from app.database.advisory_locks import exclude_workspace
from app.errors import StorageUnavailable
from app.events.feed import domain as feed
from app.events.feed.cursors import Place
from app.events.feed.domain import Feed, Page
from app.ingest.envelope import Attempt, Envelope
from app.jobs import replay as work
from app.jobs.kinds import KINDS
from app.jobs.replay import replay_events
from app.jobs.replayed import attempt_of
from app.jobs.turns import give_turn
from app.maintenance.task import TaskContext
from app.management.common.operators import Role
from app.management.tokens.domain import NewToken
from tests.support.following import Group, store_group
from tests.support.lossy_commits import LossyCommits
from tests.support.operating import api_of, api_with, at_once
from tests.support.people import Tenant, execute, rows
from tests.support.replaying import Replays, model_row
from tests.support.sending import event_for, send

_DIGITS = "12345678901234567890.01234567890"


@pytest.fixture(name="replays")
def _replays(app: Flask, context: Context, alice: Tenant) -> Replays:
    return Replays(api_of(app, alice), context, alice)


@pytest.fixture(name="again")
def _again(replays: Replays) -> str:
    """A source to replay into."""
    return replays.source()


@pytest.fixture(name="small_groups")
def _small_groups() -> Iterator[None]:
    with patch.object(work, "GROUP_EVENTS", 3):
        yield


def _store(context: Context, tenant: Tenant, *event_ids: str, **changes: Any) -> None:
    """Each in a group of its own."""
    for event_id in event_ids:
        store_group(context.database, tenant, event_id, **changes)


def _originals(replayed: list[str]) -> list[str]:
    """Our ids of the originals, out of the event ids of replayed events."""
    return [event_id.split(".")[1] for event_id in replayed]


def _then(moment: str, then: Callable[[], None], monkeypatch: pytest.MonkeyPatch, number: int = 1) -> None:
    """Do something after a function of the work has been called so many times."""
    real, calls = getattr(work, moment), []

    def called(*arguments: Any, **named: Any) -> Any:
        result = real(*arguments, **named)
        calls.append(result)
        if len(calls) == number:
            then()
        return result

    monkeypatch.setattr(work, moment, called)


class TestTheNewEvents:
    def test_are_what_the_originals_were_in_the_target_source(
        self, app: Flask, context: Context, replays: Replays, alice: Tenant
    ) -> None:
        sent = event_for(alice, event_id="e", severity="error", timestamp="2026-06-01T10:00:00.5+02:00")
        sent["payload"] = {"n": "exact", "é": ['"\n', None, {"a: b": 1, "c": "x,  y"}]}
        assert send(app.test_client(), alice, json.dumps(sent).replace('"exact"', _DIGITS)).status_code == 201
        other = replays.api.made(f"/v1/projects/{alice.project_id}/environments", {"name": "qa"})["id"]
        target = replays.api.made(f"/v1/environments/{other}/sources", {"name": "again", "type": "service"})["id"]
        (original,) = replays.events()

        replay = replays.turn(replays.make(target))

        assert (replay["state"], replay["count"], replay["events"], replay["stored"]) == ("completed", 1, 1, 1)
        (_, new) = replays.events()
        same = ("event_type", "severity", "timestamp", "payload", "project_id")
        assert {name: new[name] for name in same} == {name: original[name] for name in same}
        assert (new["source_id"], new["environment"], new["key_id"]) == (target, "qa", replay["key_id"])
        assert new["event_id"] == f"{replay['id']}.{original['id']}"
        stored = rows(context, "SELECT payload::text AS text FROM events WHERE project_id = :id", id=alice.project_row)
        assert len({row.text for row in stored}) == 1
        assert _DIGITS in stored[0].text

    def test_are_found_by_the_key_of_the_replay_and_by_its_id(
        self, context: Context, replays: Replays, again: str, alice: Tenant
    ) -> None:
        _store(context, alice, "1", "2")
        first = replays.turn(replays.make(again, q="id:1"))
        second = replays.turn(replays.make(again, q="id:2"))

        for replay in (first, second):
            by_key = replays.ids(q=f"key:{replay['key_id']}")
            assert by_key == replays.ids(q=f"id:{replay['id']}.*")
            assert len(by_key) == 1

    def test_say_where_they_come_from_and_nothing_else_does(
        self, context: Context, replays: Replays, again: str, alice: Tenant
    ) -> None:
        _store(context, alice, "1")
        (original,) = replays.events()
        replay = replays.turn(replays.make(again))
        event_id = f"{replay['id']}.{original['id']}"
        store_group(context.database, alice, event_id)

        def origin_in(source_id: str, event_id: str) -> Any:
            by_event_id = replays.api.get(f"/v1/sources/{source_id}/events/{event_id}").json or {}
            by_id = replays.api.get(f"/v1/events/{by_event_id['id']}").json or {}
            assert by_id == by_event_id
            return by_id["origin"]

        assert origin_in(again, event_id) == {"replay_id": replay["id"], "event_id": original["id"]}
        assert origin_in(alice.source_id, "1") is None
        assert origin_in(alice.source_id, event_id) is None  # a producer can choose such an id

        with psycopg.connect(context.settings.admin_database_url) as owner:
            owner.execute("DELETE FROM replays WHERE public_id = %s", [replay["id"]])
        assert origin_in(again, event_id) == {"replay_id": replay["id"], "event_id": original["id"]}
        assert origin_in(alice.source_id, event_id) is None

    @pytest.mark.usefixtures("small_groups")
    def test_come_in_the_order_of_the_originals(
        self, context: Context, replays: Replays, again: str, alice: Tenant
    ) -> None:
        late = Group(context.database, alice, "0")
        _store(context, alice, *map(str, range(1, 11)))
        late.commit()
        originals = [event["id"] for event in replays.events()]

        replays.turn(replays.make(again))

        assert _originals(replays.ids(q=f"source:{again}")) == originals

    def test_may_go_to_another_project(self, context: Context, replays: Replays, alice: Tenant) -> None:
        _store(context, alice, "1")
        other = replays.api.made("/v1/projects", {"name": "other"})
        path = f"/v1/environments/{other['environments'][0]['id']}/sources"
        target = replays.api.made(path, {"name": "again", "type": "service"})["id"]

        replays.turn(replays.make(target))

        assert replays.ids() == ["1"]
        assert len(replays.ids(other["id"])) == 1

    def test_are_counted_as_usage_and_by_hour(
        self, context: Context, replays: Replays, again: str, alice: Tenant
    ) -> None:
        _store(context, alice, "1", "2")
        replays.turn(replays.make(again))

        counted = replays.api.get("/v1/events/counts", project_id=alice.project_id, q=f"source:{again}").json or {}
        assert counted["total"] == 2


class TestWhatIsReplayed:
    def test_is_what_the_query_admits(self, context: Context, replays: Replays, again: str, alice: Tenant) -> None:
        _store(context, alice, "1", "3", severity="error")
        _store(context, alice, "2", severity="info")

        replay = replays.turn(replays.make(again, q="severity:error"))

        assert (replay["count"], replay["stored"]) == (2, 2)

    def test_was_received_in_the_range(self, context: Context, replays: Replays, again: str, alice: Tenant) -> None:
        _store(context, alice, "1", "2", "3")
        first, second, third = (event["received_at"] for event in replays.events())

        replay = replays.turn(replays.make(again, **{"from": second, "to": third}))

        assert replay["query"]["from"] == second
        assert replay["query"]["to"] == third
        assert first < second < third
        assert _originals(replays.ids(q=f"source:{again}")) == [replays.events()[1]["id"]]

    def test_was_there_when_the_replay_was_made(
        self, context: Context, replays: Replays, again: str, alice: Tenant
    ) -> None:
        """So a replay into the same project never replays itself, also if PostgreSQL's clock is set back."""
        _store(context, alice, "1")
        made = replays.make(again)
        execute(
            context,
            "UPDATE replays SET ends_at = ends_at + interval '1 hour' WHERE public_id = :id",
            id=made["id"],
        )
        _store(context, alice, "2")

        replay = replays.turn(made)

        assert (replay["state"], replay["stored"]) == ("completed", 1)

    def test_of_a_group_that_commits_late_is_what_the_count_says(
        self, context: Context, replays: Replays, again: str, alice: Tenant
    ) -> None:
        _store(context, alice, "1")
        with Group(context.database, alice, "2"):
            made = replays.make(again)
        replay = replays.turn(made)

        assert (replay["count"], replay["stored"], replay["state"]) == (1, 1, "completed")

    def test_is_nothing_of_what_lies_before_the_range_by_the_skip_index(
        self, context: Context, replays: Replays, again: str, alice: Tenant
    ) -> None:
        _store(context, alice, *map(str, range(6)))
        for number in (2, 2):
            with context.database.transaction(alice.workspace_row) as session:
                build = text("SELECT build_event_segment(:project, :size)")
                session.execute(build, {"project": alice.project_row, "size": number})
        events = replays.events()
        made = replays.make(again, **{"from": events[4]["received_at"]})
        places = []
        page = Feed.page

        def noted(feed: Any, database: Any, operator: Any, after: Any, limit: int) -> Any:
            places.append(after)
            return page(feed, database, operator, after, limit)

        with patch.object(Feed, "page", noted):
            replay = replays.turn(made)

        assert replay["stored"] == 2
        positions = rows(
            context,
            "SELECT position FROM events WHERE project_id = :id AND source_id = :source ORDER BY position",
            id=alice.project_row,
            source=alice.source_row,
        )
        assert places[0].position >= positions[1].position

    def test_may_be_nothing(self, replays: Replays, again: str) -> None:
        replay = replays.turn(replays.make(again, q="nowhere"))

        assert (replay["state"], replay["count"], replay["progress"]) == ("completed", 0, 1.0)

    def test_is_what_the_names_in_the_query_meant_when_it_was_made(
        self, context: Context, replays: Replays, again: str, alice: Tenant
    ) -> None:
        _store(context, alice, "1")
        made = replays.make(again, q="env:production")
        assert replays.api.patch(f"/v1/environments/{alice.environment_id}", {"name": "old"}).status_code == 200
        replays.api.made(f"/v1/projects/{alice.project_id}/environments", {"name": "production"})

        replay = replays.turn(made)

        assert (replay["state"], replay["stored"]) == ("completed", 1)

    def test_is_not_what_retention_has_deleted_meanwhile(
        self, context: Context, replays: Replays, again: str, alice: Tenant
    ) -> None:
        _store(context, alice, "1", "2", "3")
        made = replays.make(again)
        with psycopg.connect(context.settings.admin_database_url) as owner:
            owner.execute("DELETE FROM events WHERE project_id = %s AND event_id = '2'", [alice.project_row])

        replay = replays.turn(made)

        assert (replay["state"], replay["count"], replay["events"]) == ("completed", 3, 2)
        assert replay["progress"] == 1


@pytest.mark.usefixtures("small_groups")
class TestEachOriginalIsStoredOnce:
    @pytest.fixture(name="made")
    def _made(self, context: Context, replays: Replays, again: str, alice: Tenant) -> dict[str, Any]:
        """A replay of ten events, four groups."""
        _store(context, alice, *map(str, range(10)))
        return replays.make(again)

    def _is_whole(self, replays: Replays, again: str, replay: dict[str, Any]) -> None:
        assert replay["state"] == "completed"
        assert (replay["events"], replay["stored"], replay["duplicates"], replay["refused"]) == (10, 10, 0, {})
        originals = [event["id"] for event in replays.events(q=f"-source:{again}")]
        assert _originals(replays.ids(q=f"source:{again}")) == originals

    @pytest.mark.parametrize("number", [1, 2, 4])
    def test_when_the_worker_is_killed_before_a_commit(
        self, replays: Replays, again: str, made: dict[str, Any], monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        def kill() -> None:
            raise SystemExit

        _then("note", kill, monkeypatch, number)
        with pytest.raises(SystemExit):
            replays.turn(made)
        assert replays.read(made)["stored"] == 3 * (number - 1)
        assert len(replays.ids(q=f"source:{again}")) == 3 * (number - 1)

        self._is_whole(replays, again, replays.turn(made))

    @pytest.mark.parametrize("number", [1, 3])
    def test_when_the_worker_is_killed_after_a_commit(
        self, replays: Replays, again: str, made: dict[str, Any], monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        slept = []

        def kill(_: float) -> None:
            slept.append(1)
            if len(slept) == number:
                raise SystemExit

        monkeypatch.setattr(work, "_rest", kill)
        with pytest.raises(SystemExit):
            replays.turn(made)
        assert replays.read(made)["stored"] == 3 * number

        self._is_whole(replays, again, replays.turn(made))

    @pytest.mark.parametrize("how", ["before", "after"])
    @pytest.mark.parametrize("number", [1, 2, 4])
    def test_when_the_answer_of_a_commit_is_lost(
        self, replays: Replays, again: str, made: dict[str, Any], monkeypatch: pytest.MonkeyPatch, how: str, number: int
    ) -> None:
        commits = LossyCommits(monkeypatch)
        _then("note", lambda: commits.plan.append(how), monkeypatch, number)
        execute(replays.context, "UPDATE replays SET state = 'running' WHERE public_id = :id", id=made["id"])
        with pytest.raises(StorageUnavailable):
            replay_events(replays.turn_of(made))

        self._is_whole(replays, again, replays.turn(made))

    def test_when_it_runs_twice_at_once(self, replays: Replays, again: str, made: dict[str, Any]) -> None:
        execute(replays.context, "UPDATE replays SET state = 'running' WHERE public_id = :id", id=made["id"])
        turns = [replays.turn_of(made) for _ in range(3)]

        at_once([lambda turn=turn: give_turn(KINDS[1], turn) for turn in turns])  # type: ignore[misc]

        while replays.read(made)["state"] == "running":
            replays.turn(made)
        self._is_whole(replays, again, replays.read(made))

    def test_when_its_row_is_restored_from_a_backup(
        self, context: Context, replays: Replays, again: str, made: dict[str, Any]
    ) -> None:
        """From one in which it had begun; its events are there, and recognised."""
        before = model_row(context, made)
        replays.turn(made)
        execute(
            context,
            "UPDATE replays SET state = 'running', ended_at = NULL, position = :position, event_uid = :uid,"
            " events = 0, stored = 0, refused = '{}' WHERE public_id = :id",
            id=made["id"],
            position=before.position,
            uid=before.event_uid,
        )
        execute(context, "UPDATE source_keys SET revoked_at = NULL WHERE public_id = :id", id=made["key_id"])

        self._is_whole(replays, again, replays.turn(made))

    def test_when_the_workspace_is_being_changed_meanwhile(
        self, context: Context, replays: Replays, again: str, made: dict[str, Any], alice: Tenant
    ) -> None:
        with context.database.transaction(alice.workspace_row) as session:
            exclude_workspace(session, alice.workspace_row)
            waiting = replays.turn(made, idempotency_wait_seconds=0.05)
        assert (waiting["state"], waiting["stored"]) == ("running", 0)

        self._is_whole(replays, again, replays.turn(made))


@pytest.mark.usefixtures("small_groups")
class TestItEnds:
    @pytest.fixture(name="made")
    def _made(self, context: Context, replays: Replays, again: str, alice: Tenant) -> dict[str, Any]:
        _store(context, alice, *map(str, range(10)))
        return replays.make(again)

    def _ends_with(self, replays: Replays, made: dict[str, Any], failure: str, stored: int) -> None:
        replay = replays.turn(made)
        assert (replay["state"], replay["failure"], replay["stored"]) == ("failed", failure, stored)
        assert replay["ended_at"] is not None
        key = replays.api.get(f"/v1/keys/{made['key_id']}").json
        assert key is None or key.get("state", "revoked") == "revoked"
        assert replays.turn(made) == replay

    def test_not_when_the_token_that_asked_for_it_is_revoked(
        self, app: Flask, context: Context, replays: Replays, alice: Tenant, again: str
    ) -> None:
        _store(context, alice, "1")
        asking = api_with(app, context, alice, NewToken(role=Role.DEVELOPER))
        made = asking.made("/v1/replays", replays.body(again))
        assert replays.api.post(f"/v1/tokens/{made['requested_by']}/revoke").status_code == 200

        replay = replays.turn(made)
        assert (replay["state"], replay["stored"]) == ("completed", 1)

    def test_when_its_key_is_revoked(
        self, replays: Replays, made: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def revoke(_: float) -> None:
            replays.api.post(f"/v1/keys/{made['key_id']}/revoke")

        monkeypatch.setattr(work, "_rest", revoke)

        self._ends_with(replays, made, "invalid_source_key", 3)

    def test_when_its_source_is_disabled(self, replays: Replays, made: dict[str, Any], again: str) -> None:
        assert replays.api.post(f"/v1/sources/{again}/disable").status_code == 200

        self._ends_with(replays, made, "source_disabled", 0)

    def test_when_its_source_is_archived(self, replays: Replays, made: dict[str, Any], again: str) -> None:
        assert replays.api.delete(f"/v1/sources/{again}").status_code == 204

        self._ends_with(replays, made, "source_disabled", 0)

    def test_when_its_workspace_is_suspended(
        self, context: Context, replays: Replays, made: dict[str, Any], alice: Tenant
    ) -> None:
        execute(context, "UPDATE workspaces SET status = 'suspended' WHERE id = :id", id=alice.workspace_row)

        self._ends_with(replays, made, "workspace_suspended", 0)

    def test_when_something_of_ours_is_wrong(
        self, replays: Replays, made: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any) -> Any:
            raise ZeroDivisionError

        monkeypatch.setattr(work, "attempt_of", fail)
        replay = replays.turn(made)

        assert (replay["state"], replay["failure"]) == ("failed", "internal_error")
        assert (replays.api.get(f"/v1/keys/{made['key_id']}").json or {})["state"] == "revoked"

    def test_not_when_celery_interrupts_its_run(
        self, replays: Replays, made: dict[str, Any], again: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(_: float) -> None:
            monkeypatch.setattr(TaskContext, "is_over", lambda _: True)
            raise SoftTimeLimitExceeded

        monkeypatch.setattr(work, "_rest", interrupt)
        with pytest.raises(SoftTimeLimitExceeded):
            replays.turn(made)
        monkeypatch.undo()

        assert replays.read(made)["state"] == "running"
        assert (replays.api.get(f"/v1/keys/{made['key_id']}").json or {})["state"] == "active"

    def test_with_its_key_when_all_is_stored_and_the_worker_says_so_in_the_audit_log(
        self, replays: Replays, made: dict[str, Any]
    ) -> None:
        assert (replays.api.get(f"/v1/keys/{made['key_id']}").json or {})["state"] == "active"
        replays.turn(made)

        assert (replays.api.get(f"/v1/keys/{made['key_id']}").json or {})["state"] == "revoked"
        revoked, issued = replays.api.all_of("/v1/audit", object_id=made["key_id"])
        assert (revoked["action"], revoked["actor"], issued["action"]) == (
            "source_key.revoke",
            "worker",
            "source_key.issue",
        )

    def test_of_a_cancellation_between_two_groups_nothing_more_is_stored(
        self, replays: Replays, made: dict[str, Any], again: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def cancel(_: float) -> None:
            assert replays.api.post(f"/v1/replays/{made['id']}/cancel").status_code == 200

        monkeypatch.setattr(work, "_rest", cancel)
        replay = replays.turn(made)

        assert (replay["state"], replay["events"], replay["stored"]) == ("cancelled", 3, 3)
        assert len(replays.ids(q=f"source:{again}")) == 3
        assert (replays.api.get(f"/v1/keys/{made['key_id']}").json or {})["state"] == "revoked"

    def test_a_cancellation_waits_for_the_group_that_is_being_stored(
        self, replays: Replays, made: dict[str, Any], again: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers: list[tuple[int, int]] = []

        def stored() -> int:
            # Not the feed, which may show what has just been committed a moment later.
            source = "(SELECT id FROM sources WHERE public_id = :id)"
            return len(rows(replays.context, f"SELECT FROM events WHERE source_id = {source}", id=again))

        def cancel() -> None:
            status = replays.api.post(f"/v1/replays/{made['id']}/cancel").status_code
            answers.append((status, stored()))

        thread = Thread(target=cancel)
        _then("note", thread.start, monkeypatch)
        replay = replays.turn(made)
        thread.join()

        ((status, stored_by_then),) = answers
        assert status == 200
        replay = replays.read(made)
        assert replay["state"] == "cancelled"
        assert stored_by_then == replay["stored"] == stored() >= 3


class TestWhatIsWrongWithSingleEvents:
    def test_is_counted_and_the_others_are_stored(self, context: Context, replays: Replays, alice: Tenant) -> None:
        strict = replays.source("strict", timestamp_policy="refuse")
        _store(context, alice, "1", timestamp="2020-01-01T00:00:00Z")
        _store(context, alice, "2", "3")

        replay = replays.turn(replays.make(strict))

        assert (replay["state"], replay["events"], replay["stored"]) == ("completed", 3, 2)
        assert replay["refused"] == {"timestamp_out_of_range": 1}

    def test_may_be_what_the_policy_of_the_key_does_not_allow(
        self, context: Context, replays: Replays, again: str, alice: Tenant
    ) -> None:
        _store(context, alice, "1", event_type="a.b")
        _store(context, alice, "2", event_type="c.d")
        made = replays.make(again)
        assert replays.api.patch(f"/v1/keys/{made['key_id']}", {"allowed_event_types": ["a.*"]}).status_code == 200

        replay = replays.turn(made)

        assert (replay["state"], replay["stored"]) == ("completed", 1)
        assert replay["refused"] == {"event_type_not_allowed": 1}

    def test_may_be_that_the_source_has_another_event_of_that_id(
        self, app: Flask, context: Context, replays: Replays, again: str, alice: Tenant
    ) -> None:
        _store(context, alice, "1", "2")
        made = replays.make(again)
        key = replays.api.made(f"/v1/sources/{again}/keys", {})["key"]
        taken = f"{made['id']}.{replays.events()[0]['id']}"
        assert (
            send(app.test_client(), alice, event_for(alice, source_id=again, event_id=taken), key=key).status_code
            == 201
        )

        replay = replays.turn(made)

        assert (replay["state"], replay["stored"], replay["refused"]) == ("completed", 1, {"duplicate_event": 1})

    def test_may_be_that_postgresql_refuses_it(
        self, context: Context, replays: Replays, again: str, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _store(context, alice, "1", "2", "3")
        made = replays.make(again)
        second = replays.events()[1]["id"]
        real = attempt_of

        def poisoned(original: Any, *more: Any) -> Attempt:
            attempt = real(original, *more)
            if original.id == second:
                members = {name: getattr(attempt.envelope, name) for name in Envelope.__struct_fields__}
                attempt.envelope = Envelope(**members | {"payload": b'{"a": "\\u0000"}'})
            return attempt

        monkeypatch.setattr(work, "attempt_of", poisoned)
        replay = replays.turn(made)

        assert (replay["state"], replay["stored"]) == ("completed", 2)
        assert replay["refused"] == {"schema_validation_failed": 1}


class TestTheRate:
    """By what the database says of the next turn; no test waits for it."""

    @pytest.fixture(name="made")
    def _made(self, context: Context, replays: Replays, again: str, alice: Tenant) -> Callable[[int], dict[str, Any]]:
        _store(context, alice, *map(str, range(6)))
        return lambda rate: replays.make(again, rate)

    def _due_in(self, context: Context, replay: dict[str, Any]) -> timedelta:
        now = rows(context, "SELECT clock_timestamp() AS now")[0].now
        due: timedelta = model_row(context, replay).due_at - now
        return due

    def _make_due(self, context: Context, replay: dict[str, Any], ago: str) -> datetime:
        """Have the next group be due so long ago; returns when that is."""
        due = "UPDATE replays SET due_at = clock_timestamp() - CAST(:ago AS interval) WHERE public_id = :id"
        execute(context, due, id=replay["id"], ago=ago)
        at: datetime = model_row(context, replay).due_at
        return at

    def test_is_kept_by_small_groups_and_the_time_of_the_next_turn(
        self, context: Context, replays: Replays, made: Callable[[int], dict[str, Any]]
    ) -> None:
        slow = made(4)
        due_at = self._make_due(context, slow, "0 seconds")

        assert replays.turn(slow)["stored"] == 2
        assert model_row(context, slow).due_at == due_at + timedelta(seconds=0.5)

    def test_is_kept_beside_the_turns_of_others_which_it_makes_up_for(
        self, context: Context, replays: Replays, made: Callable[[int], dict[str, Any]]
    ) -> None:
        slow = made(1)
        due_at = self._make_due(context, slow, "2.2 seconds")

        stored = replays.turn(slow)["stored"]
        assert 3 <= stored < 6
        assert model_row(context, slow).due_at == due_at + timedelta(seconds=stored)

    def test_does_not_make_up_for_more_than_some_seconds(
        self, context: Context, replays: Replays, made: Callable[[int], dict[str, Any]]
    ) -> None:
        slow = made(1)
        self._make_due(context, slow, "1 hour")
        before = rows(context, "SELECT clock_timestamp() AS now")[0].now

        with patch.object(work, "_LATE_SECONDS", 2.2):
            stored = replays.turn(slow)["stored"]
        assert 3 <= stored < 6
        assert model_row(context, slow).due_at >= before + timedelta(seconds=stored - 2.2)

    def test_is_kept_when_the_clock_is_set_back(
        self, context: Context, replays: Replays, made: Callable[[int], dict[str, Any]]
    ) -> None:
        """Until then the next turn lies years ahead."""
        slow = made(4)
        ahead = "UPDATE replays SET due_at = due_at + interval '2 years' WHERE public_id = :id"
        execute(context, ahead, id=slow["id"])

        assert replays.turn(slow)["stored"] == 2
        assert timedelta(0) < self._due_in(context, slow) <= timedelta(seconds=0.5)

    def test_of_one_event_a_second_stores_one_at_once(
        self, context: Context, replays: Replays, made: Callable[[int], dict[str, Any]]
    ) -> None:
        slow = made(1)
        self._make_due(context, slow, "0 seconds")

        assert replays.turn(slow)["stored"] == 1
        assert self._due_in(context, slow) > timedelta(seconds=0.5)

    def test_is_not_beyond_what_the_workspace_may_send(
        self, context: Context, replays: Replays, made: Callable[[int], dict[str, Any]], alice: Tenant
    ) -> None:
        fast = made(1_000)
        limit = "UPDATE workspaces SET events_per_second = 4 WHERE id = :id"
        execute(context, limit, id=alice.workspace_row)
        self._make_due(context, fast, "0 seconds")

        assert replays.turn(fast)["stored"] == 2

    def test_of_what_is_found_rarely_is_no_reason_to_read_without_rest(
        self, context: Context, replays: Replays, again: str, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Half as long as each page has taken."""
        _store(context, alice, *map(str, range(6)))
        made = replays.make(again, q="nowhere")
        moments = iter(range(0, 1_000, 4))
        rests: list[float] = []
        monkeypatch.setattr(work, "time", SimpleNamespace(monotonic=lambda: next(moments)))
        monkeypatch.setattr(work, "_rest", rests.append)

        with patch.object(feed, "SCANNED_MAX", 2), patch.object(feed, "_SCANNED_MIN", 2):
            replay = replays.turn(made)

        assert (replay["state"], replay["events"]) == ("completed", 0)
        assert len(rests) >= 3
        assert set(rests) == {2}

    def test_of_nothing_that_can_be_read_yet_leaves_the_turn_to_others_and_waits(
        self, context: Context, replays: Replays, again: str, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A group that is taking its position can hide what a replay will come to."""
        _store(context, alice, "1")
        made = replays.make(again)
        asked: list[Place] = []

        def hidden(feed: Any, database: Any, operator: Any, after: Place, limit: int) -> Page:
            asked.append(after)
            return Page(alice.project_row, [], after, is_last=True)

        monkeypatch.setattr(Feed, "page", hidden)
        waiting = replays.turn(made)
        monkeypatch.undo()

        assert (waiting["state"], len(asked)) == ("running", 1)
        assert self._due_in(context, made) > timedelta(0)
        assert replays.turn(made)["stored"] == 1

    def test_leaves_the_turn_to_others_when_its_time_is_over(
        self, replays: Replays, made: Callable[[int], dict[str, Any]]
    ) -> None:
        with patch.object(work, "GROUP_EVENTS", 2):
            replay = replays.turn(made(1_000), seconds=0)
            assert (replay["state"], replay["stored"], replay["progress"]) == ("running", 2, 0.3333)
            assert replays.turn(replay)["state"] == "completed"


def test_progress_of_what_could_not_be_counted_goes_by_time(
    context: Context, replays: Replays, again: str, alice: Tenant
) -> None:
    _store(context, alice, "1", "2")
    made = replays.make(again, 1_000, **{"from": (datetime.now(UTC) - timedelta(hours=1)).isoformat()})
    execute(context, "UPDATE replays SET count = NULL WHERE public_id = :id", id=made["id"])
    assert replays.read(made)["progress"] == 0
    with patch.object(work, "GROUP_EVENTS", 1):
        replay = replays.turn(made, seconds=0)

    assert 0.9 < replay["progress"] <= 1
    assert (replay["state"], replay["count"]) == ("running", None)
