"""/v1/replays: asked for, tried without storing anything, listed and cancelled, by who reaches both projects."""

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.context import Context
from app.errors import QueryTooBroad
from app.events.replays import domain, finding
from app.management.common.operators import Role
from app.management.tokens.domain import NewToken
from app.models import Source
from tests.support.every_route import REQUEST_ID, UNKNOWN_IDS, all_it_says
from tests.support.following import store_group
from tests.support.operating import MOMENT, UNKNOWN_ID, ApiClient, api_of, api_with, at_once
from tests.support.people import Tenant, rows
from tests.support.replaying import PATH, Replays
from tests.support.sending import error_of, pointers_of


@pytest.fixture(name="replays")
def _replays(app: Flask, context: Context, alice: Tenant) -> Replays:
    return Replays(api_of(app, alice), context, alice)


@pytest.fixture(name="api")
def _api(replays: Replays) -> ApiClient:
    return replays.api


@pytest.fixture(name="again")
def _again(replays: Replays) -> str:
    return replays.source()


def _written(context: Context, tenant: Tenant) -> list[int]:
    """How many rows there are that a replay adds to."""
    tables = ("replays", "source_keys", "events", "audit_entries", "management_requests")
    counts = ", ".join(f"(SELECT count(*) FROM {table} WHERE workspace_id = :id)" for table in tables)
    return list(rows(context, f"SELECT {counts}", id=tenant.workspace_row)[0])


class TestADryRun:
    def test_says_how_many_events_and_shows_the_newest(
        self, context: Context, replays: Replays, api: ApiClient, again: str, alice: Tenant
    ) -> None:
        for number in range(7):
            store_group(context.database, alice, f"{number}", severity=("info", "error")[number % 2])
        body = replays.body(again, 1, q=" severity:error ", **{"from": "-1h"}) | {"dry_run": True}

        response = api.post(PATH, body)

        assert response.status_code == 200
        found = response.json or {}
        assert set(found) == {"dry_run", "count", "sample", "query"}
        assert (found["dry_run"], found["count"]) == (True, 3)
        shown = api.get("/v1/events", project_id=alice.project_id, q="severity:error").json or {}
        assert found["sample"] == shown["data"]
        assert found["query"]["normalized"] == "severity:error"
        assert MOMENT.fullmatch(found["query"]["from"])
        assert MOMENT.fullmatch(found["query"]["to"])

    def test_shows_five_at_the_most(
        self, context: Context, replays: Replays, api: ApiClient, again: str, alice: Tenant
    ) -> None:
        store_group(context.database, alice, *map(str, range(9)))

        found = api.post(PATH, replays.body(again) | {"dry_run": True}).json or {}
        assert (found["count"], len(found["sample"])) == (9, 5)

    def test_stores_nothing(
        self, context: Context, replays: Replays, api: ApiClient, again: str, alice: Tenant
    ) -> None:
        store_group(context.database, alice, "1")
        before = _written(context, alice)

        for _ in range(2):
            headers = {"Idempotency-Key": "dry"}
            assert api.post(PATH, replays.body(again) | {"dry_run": True}, headers=headers).status_code == 200
        assert _written(context, alice) == before

    def test_of_an_empty_range_is_empty(self, replays: Replays, api: ApiClient, again: str) -> None:
        query = {"from": "2090-01-01T00:00:00Z", "to": "2090-01-02T00:00:00Z"}

        found = api.post(PATH, replays.body(again, 1, **query) | {"dry_run": True}).json or {}
        assert (found["count"], found["sample"]) == (0, [])

    def test_says_when_it_cannot_count(
        self,
        context: Context,
        replays: Replays,
        api: ApiClient,
        again: str,
        alice: Tenant,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def too_many(*_: Any) -> Any:
            raise QueryTooBroad

        store_group(context.database, alice, "1")
        monkeypatch.setattr(finding, "count_events", too_many)

        found = api.post(PATH, replays.body(again) | {"dry_run": True}).json or {}
        assert (found["count"], len(found["sample"])) == (None, 1)
        assert replays.turn(replays.make(again))["stored"] == 1


class TestMakingOne:
    def test_answers_with_what_it_is(
        self, context: Context, replays: Replays, api: ApiClient, again: str, alice: Tenant
    ) -> None:
        store_group(context.database, alice, "1", "2")

        response = api.post(PATH, replays.body(again, 50, q="id:1"))

        assert response.status_code == 201
        made = response.json or {}
        assert made["id"].startswith("rep_")
        assert response.headers["Location"] == f"{PATH}/{made['id']}"
        assert made["query"]["normalized"] == "id:1"
        expected = {
            "project_id": alice.project_id,
            "target_source_id": again,
            "rate": 50,
            "state": "queued",
            "count": 1,
            "events": 0,
            "stored": 0,
            "duplicates": 0,
            "refused": {},
            "progress": 0.0,
            "requested_by": alice.token_id,
            "started_at": None,
            "ended_at": None,
            "failure": None,
        }
        assert {name: made[name] for name in expected} == expected
        assert api.get(f"{PATH}/{made['id']}").json == made
        assert api.all_of(PATH) == [made]

    def test_issues_a_key_that_is_in_no_answer(self, replays: Replays, api: ApiClient, again: str) -> None:
        response = api.post(PATH, replays.body(again))
        made = response.json or {}

        assert "lrb_" not in response.text
        (key,) = api.all_of(f"/v1/sources/{again}/keys")
        assert (key["id"], key["label"], key["state"]) == (made["key_id"], f"replay {made['id']}", "active")

    def test_says_in_the_audit_log_who_asked_for_what(
        self, replays: Replays, api: ApiClient, again: str, alice: Tenant
    ) -> None:
        made = replays.make(again, q="id:1")

        (entry,) = api.all_of("/v1/audit", object_id=made["id"])
        assert (entry["action"], entry["actor"], entry["project_id"]) == (
            "replay.create",
            alice.token_id,
            alice.project_id,
        )
        assert entry["after"] == {
            "q": "id:1",
            "from": made["query"]["from"],
            "to": made["query"]["to"],
            "target_source_id": again,
            "key_id": made["key_id"],
            "rate": 1_000,
        }

    def test_sent_again_with_its_idempotency_key_makes_no_other(
        self, context: Context, replays: Replays, api: ApiClient, again: str, alice: Tenant
    ) -> None:
        headers = {"Idempotency-Key": "k"}
        first = api.post(PATH, replays.body(again), headers=headers)
        before = _written(context, alice)
        second = api.post(PATH, replays.body(again), headers=headers)

        assert (second.status_code, second.headers["Idempotent-Replayed"]) == (201, "true")
        assert second.json == first.json
        assert second.headers["Location"] == first.headers["Location"]
        assert _written(context, alice) == before

    @pytest.mark.parametrize(
        ("changes", "pointer"),
        [
            ({"query": {}}, "/query/project_id"),
            ({"query": None}, "/query"),
            ({"target_source_id": None}, "/target_source_id"),
            ({"rate": 0}, "/rate"),
            ({"rate": 1_001}, "/rate"),
            ({"rate": "5"}, "/rate"),
            ({"dry_run": 1}, "/dry_run"),
            ({"dry_run": "true"}, "/dry_run"),
            ({"speed": 5}, "/speed"),
            ({"q": "sevrity:error"}, "/query/q"),
            ({"q": "(" * 500}, "/query/q"),
            ({"q": "source:src_unknown"}, "/query/q"),
            ({"from": "-1h", "to": "-2h"}, "/query/to"),
            ({"from": "2020-01-01T00:00:00Z"}, "/query/from"),
            ({"from": "yesterday"}, "/query/from"),
            ({"limit": 5}, "/query/limit"),
        ],
    )
    @pytest.mark.parametrize("is_dry", [True, False])
    def test_that_is_wrong_is_told_where(
        self, replays: Replays, api: ApiClient, again: str, changes: dict[str, Any], pointer: str, *, is_dry: bool
    ) -> None:
        body = replays.body(again) | {"dry_run": is_dry}
        for name, value in changes.items():
            if name in ("q", "from", "to", "limit"):
                body["query"][name] = value
            else:
                body[name] = value

        response = api.post(PATH, body)
        assert response.status_code == 422
        assert pointers_of(response) == {pointer}
        assert api.all_of(PATH) == []

    def test_into_a_source_that_is_disabled_conflicts(self, replays: Replays, api: ApiClient, again: str) -> None:
        api.post(f"/v1/sources/{again}/disable")

        for is_dry in (True, False):
            response = api.post(PATH, replays.body(again) | {"dry_run": is_dry})
            assert (response.status_code, pointers_of(response)) == (409, {"/target_source_id"})

    def test_keeps_its_source_from_being_archived_until_it_is_made(
        self, replays: Replays, again: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        locks: list[list[str]] = []
        find_target = domain._find_target  # noqa: SLF001 - where the source is found to be there

        def found(session: Session, *arguments: Any) -> Source:
            held = text("SELECT mode FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")
            locks.append(list(session.scalars(held)))
            return find_target(session, *arguments)

        monkeypatch.setattr(domain, "_find_target", found)
        replays.make(again)

        assert "ExclusiveLock" in locks[-1]

    def test_beyond_five_that_have_not_ended_conflicts(
        self, replays: Replays, api: ApiClient, again: str, context: Context, alice: Tenant
    ) -> None:
        answers = at_once([lambda: api_of_thread(api).post(PATH, replays.body(again)).status_code for _ in range(8)])

        assert sorted(answers) == [201] * 5 + [409] * 3
        assert len(api.all_of(PATH)) == 5
        refused = api.post(PATH, replays.body(again))
        assert "cancel one" in error_of(refused)["message"]
        assert api.post(f"{PATH}/{api.all_of(PATH)[0]['id']}/cancel").status_code == 200
        assert api.post(PATH, replays.body(again)).status_code == 201


def api_of_thread(api: ApiClient) -> ApiClient:
    """The same operator; a test client is for one thread."""
    return ApiClient(api.client.application.test_client(), api.token)


class TestWhatIsBeyondReach:
    def _refused(self, api: ApiClient, body: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        response = api.post(PATH, body, headers={"X-Request-ID": REQUEST_ID})
        return all_it_says(response)

    @pytest.mark.parametrize("is_dry", [True, False])
    def test_is_answered_as_what_does_not_exist(
        self, replays: Replays, api: ApiClient, again: str, charlie: Tenant, *, is_dry: bool
    ) -> None:
        body = replays.body(again) | {"dry_run": is_dry}
        of_project = [
            self._refused(api, body | {"query": {"project_id": project_id}})
            for project_id in (charlie.project_id, UNKNOWN_IDS["project_id"])
        ]
        of_source = [
            self._refused(api, body | {"target_source_id": source_id})
            for source_id in (charlie.source_id, UNKNOWN_IDS["source_id"])
        ]

        for strange, unknown in (of_project, of_source):
            assert strange == unknown
            assert strange[0] == 404
        assert b"/query/project_id" in of_project[0][1]
        assert b"/target_source_id" in of_source[0][1]

    def test_is_either_project_of_a_replay(
        self, app: Flask, context: Context, replays: Replays, api: ApiClient, alice: Tenant
    ) -> None:
        other = api.made("/v1/projects", {"name": "other"})
        path = f"/v1/environments/{other['environments'][0]['id']}/sources"
        target = api.made(path, {"name": "again", "type": "service"})["id"]
        made = replays.make(target)
        for project_id in (alice.project_id, other["id"]):
            limited = api_with(app, context, alice, NewToken(role=Role.OWNER, project_ids=(project_id,)))
            assert limited.post(PATH, replays.body(target)).status_code == 404
            assert limited.all_of(PATH) == []
            for method, rest in (("GET", ""), ("POST", "/cancel")):
                assert limited.call(method, f"{PATH}/{made['id']}{rest}").status_code == 404
        both = NewToken(role=Role.DEVELOPER, project_ids=(alice.project_id, other["id"]))
        assert api_with(app, context, alice, both).post(f"{PATH}/{made['id']}/cancel").status_code == 200

    def test_is_a_source_that_is_archived(self, replays: Replays, api: ApiClient, again: str) -> None:
        api.delete(f"/v1/sources/{again}")

        assert api.post(PATH, replays.body(again)).status_code == 404


class TestCancelling:
    def test_ends_the_replay_and_its_key_and_is_safe_to_repeat(
        self, replays: Replays, api: ApiClient, again: str, alice: Tenant
    ) -> None:
        made = replays.make(again)

        cancelled = api.post(f"{PATH}/{made['id']}/cancel")
        assert cancelled.status_code == 200
        ended = cancelled.json or {}
        assert (ended["state"], ended["failure"]) == ("cancelled", None)
        assert MOMENT.fullmatch(ended["ended_at"])
        assert (api.get(f"/v1/keys/{made['key_id']}").json or {})["state"] == "revoked"
        assert api.post(f"{PATH}/{made['id']}/cancel").json == ended
        entries = api.all_of("/v1/audit", object_id=made["id"])
        assert [entry["action"] for entry in entries] == ["replay.cancel", "replay.create"]
        assert entries[0]["before"] == {"state": "queued", "ended_at": None}
        assert replays.turn(made) == ended

    def test_changes_nothing_of_one_that_is_completed(self, replays: Replays, api: ApiClient, again: str) -> None:
        completed = replays.turn(replays.make(again))
        assert completed["state"] == "completed"

        response = api.post(f"{PATH}/{completed['id']}/cancel")
        assert (response.status_code, response.json) == (200, completed)

    def test_takes_a_condition(self, replays: Replays, api: ApiClient, again: str) -> None:
        made = replays.make(again)
        etag = api.get(f"{PATH}/{made['id']}").headers["ETag"]

        wrong = api.post(f"{PATH}/{made['id']}/cancel", headers={"If-Match": '"another"'})
        assert wrong.status_code == 412
        assert api.post(f"{PATH}/{made['id']}/cancel", headers={"If-Match": etag}).status_code == 200


class TestTheList:
    def test_is_in_pages_and_can_be_filtered(self, replays: Replays, api: ApiClient, again: str, alice: Tenant) -> None:
        first = replays.turn(replays.make(again))
        second = replays.make(alice.source_id)

        assert api.all_of(PATH, limit=1) == [second, first]
        assert api.all_of(PATH, state="completed") == [first]
        assert api.all_of(PATH, source_id=alice.source_id) == [second]
        assert api.all_of(PATH, project_id=alice.project_id) == [second, first]
        assert api.all_of(PATH, project_id=f"prj_{UNKNOWN_ID}") == []

    def test_shows_those_of_an_archived_project_too(self, replays: Replays, api: ApiClient, alice: Tenant) -> None:
        made = replays.make(alice.source_id)
        api.delete(f"/v1/projects/{alice.project_id}")

        assert [each["id"] for each in api.all_of(PATH)] == [made["id"]]


def test_a_developer_may_make_one_and_an_auditor_may_not_even_try(
    app: Flask, context: Context, replays: Replays, again: str, alice: Tenant, tenant: Callable[[], Tenant]
) -> None:
    developer = api_with(app, context, alice, NewToken(role=Role.DEVELOPER))
    auditor = api_with(app, context, alice, NewToken(role=Role.AUDITOR))

    assert developer.post(PATH, replays.body(again)).status_code == 201
    assert auditor.post(PATH, replays.body(again) | {"dry_run": True}).status_code == 403
    assert len(auditor.all_of(PATH)) == 1
