"""Consumers: made under a name, found again, listed, deleted; what each token sees of them, and what is recorded."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event

from app.context import Context
from app.events.consumers import domain
from app.management.common.operators import Role
from app.management.tokens.domain import NewToken
from tests.support.consuming import PATH, Worker, worker_of
from tests.support.following import Consumer, store_group
from tests.support.operating import MOMENT, ApiClient, api_of, api_with, at_once
from tests.support.people import Tenant
from tests.support.sending import error_of, pointers_of


@pytest.fixture(name="api")
def _api(app: Flask, alice: Tenant) -> ApiClient:
    return api_of(app, alice)


@pytest.fixture(name="billing")
def _billing(api: ApiClient) -> Worker:
    """Its consumer is not made yet."""
    return Worker(api, "billing")


@pytest.fixture(name="other_id")
def _other_id(api: ApiClient) -> str:
    """Another project of the workspace."""
    return str(api.made("/v1/projects", {"name": "other"})["id"])


class TestPut:
    def test_makes_a_consumer_that_begins_now(self, context: Context, billing: Worker, alice: Tenant) -> None:
        store_group(context.database, alice, "before")

        made = billing.put(alice.project_id, q="type:payment.*   severity>=error")

        assert made.status_code == 201
        assert made.headers["Location"] == "/v1/consumers/billing"
        view = made.json or {}
        assert view["id"].startswith("csm_")
        assert MOMENT.fullmatch(view["position_at"])
        assert (view["name"], view["project_id"], view["committed_at"]) == ("billing", alice.project_id, None)
        assert view["q"] == "type:payment.* severity>=error"
        assert billing.api.get(billing.path).headers["ETag"] == made.headers["ETag"]
        assert billing.read() == []

    def test_of_one_that_is_there_changes_nothing(self, context: Context, billing: Worker, alice: Tenant) -> None:
        first = billing.put(alice.project_id, q="type:a severity:error", start="start")
        store_group(context.database, alice, "1", event_type="a", severity="error")
        billing.read()
        committed = billing.commit().json

        again = billing.put(alice.project_id, q="(type:a) AND severity:error", start="now")

        assert (first.status_code, again.status_code) == (201, 200)
        assert again.json == committed
        assert again.headers["ETag"] == first.headers["ETag"]
        assert (
            billing.put(alice.project_id, q="type:a severity:error", start="of a token that is gone").status_code == 422
        )
        assert billing.put(alice.project_id, q="type:a severity:error", start="x.y").status_code == 200

    @pytest.mark.parametrize("is_other_project", [True, False])
    def test_with_another_project_or_query_is_a_conflict(
        self, billing: Worker, alice: Tenant, other_id: str, *, is_other_project: bool
    ) -> None:
        billing.put(alice.project_id, q="type:a")

        refused = billing.put(other_id, q="type:a") if is_other_project else billing.put(alice.project_id, q="type:b")

        assert (refused.status_code, pointers_of(refused)) == (409, {"/name"})
        assert "Delete that one, or take another name" in error_of(refused)["message"]
        assert billing.state()["q"] == "type:a"

    def test_can_begin_at_the_start(self, context: Context, billing: Worker, alice: Tenant) -> None:
        store_group(context.database, alice, "before")

        view = billing.put(alice.project_id, start="start").json or {}

        assert view["position_at"] is None
        assert billing.read() == ["before"]

    def test_can_begin_where_a_feed_was(self, context: Context, api: ApiClient, billing: Worker, alice: Tenant) -> None:
        for number in "123":
            store_group(context.database, alice, number)
        follower = Consumer(api, alice.project_id)
        follower.page(limit=2)

        assert billing.put(alice.project_id, start=follower.cursor).status_code == 201
        assert billing.read() == ["3"]

    def test_takes_no_cursor_of_another_feed(self, api: ApiClient, billing: Worker, alice: Tenant) -> None:
        follower = Consumer(api, alice.project_id)
        follower.page()

        refused = billing.put(alice.project_id, q="type:a", start=follower.cursor)

        assert (refused.status_code, pointers_of(refused)) == (422, {"/start"})
        assert billing.api.get(billing.path).status_code == 404

    @pytest.mark.parametrize("name", ["a", "0", "_", "-", "A.b_c-9.", "a" * 100])
    def test_takes_names_of_letters_digits_and_three_signs(self, api: ApiClient, alice: Tenant, name: str) -> None:
        worker_of(api, name, alice.project_id)

        assert Worker(api, name).state()["name"] == name

    @pytest.mark.parametrize("name", ["a" * 101, ".a", "a b", "ä", "a%00", "a%0A", "a:b", "a~"])
    def test_takes_no_other_name(self, api: ApiClient, alice: Tenant, name: str) -> None:
        worker = Worker(api, name)
        refused = worker.put(alice.project_id)

        assert (refused.status_code, pointers_of(refused)) == (422, {"/name"})
        assert api.get(worker.path).status_code == 404

    @pytest.mark.parametrize(
        ("body", "pointer"),
        [
            ({"q": "nonsense:"}, "/q"),
            ({"q": "source:src_unknown"}, "/q"),
            ({"start": ""}, "/start"),
            ({"start": 1}, "/start"),
            ({"start": "yesterday"}, "/start"),
            ({"begin": "now"}, "/begin"),
            ({"project_id": "a b"}, "/project_id"),
        ],
    )
    def test_says_what_is_wrong(self, billing: Worker, alice: Tenant, body: dict[str, Any], pointer: str) -> None:
        refused = billing.api.call("PUT", billing.path, {"project_id": alice.project_id} | body)

        assert (refused.status_code, pointers_of(refused)) == (422, {pointer})

    def test_of_an_unknown_project_is_not_found(self, billing: Worker) -> None:
        refused = billing.put("prj_unknown")

        assert (refused.status_code, pointers_of(refused)) == (404, {"/project_id"})

    def test_ten_times_at_once_makes_one(self, billing: Worker, alice: Tenant) -> None:
        answers = at_once([lambda: billing.put(alice.project_id)] * 10)

        assert sorted(each.status_code for each in answers) == [200] * 9 + [201]
        assert len({(each.json or {})["id"] for each in answers}) == 1

    def test_makes_no_more_than_a_workspace_may_have(
        self, api: ApiClient, alice: Tenant, charlie: Tenant, app: Flask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(domain, "CONSUMERS_MAX", 3)
        worker_of(api_of(app, charlie), "theirs", charlie.project_id)

        def put(name: str) -> Callable[[], int]:
            return lambda: Worker(api, name).put(alice.project_id).status_code

        assert sorted(at_once([put(name) for name in "abcdef"])) == [201] * 3 + [409] * 3
        kept = [each["name"] for each in api.all_of(PATH)]
        assert len(kept) == 3
        refused = Worker(api, "late").put(alice.project_id)
        assert "Delete one" in error_of(refused)["message"]
        assert Worker(api, kept[0]).put(alice.project_id).status_code == 200
        api.delete(f"{PATH}/{kept[0]}")
        assert put("late")() == 201


class TestATokenOfSomeProjects:
    @pytest.fixture(name="limited")
    def _limited(self, app: Flask, context: Context, alice: Tenant) -> ApiClient:
        return api_with(app, context, alice, NewToken(role=Role.DEVELOPER, project_ids=(alice.project_id,)))

    def test_sees_the_consumers_of_these_alone(
        self, api: ApiClient, limited: ApiClient, alice: Tenant, other_id: str
    ) -> None:
        worker_of(api, "hidden", other_id)
        worker_of(limited, "shown", alice.project_id)

        assert [each["name"] for each in limited.all_of(PATH)] == ["shown"]
        assert [each["name"] for each in api.all_of(PATH)] == ["shown", "hidden"]
        for method, path, body in (
            ("GET", "", None),
            ("GET", "/events", None),
            ("POST", "/commit", {"cursor": "x"}),
            ("POST", "/seek", {"to": "start"}),
            ("DELETE", "", None),
        ):
            headers = {"X-Request-ID": "same"}
            hidden, unknown = (
                limited.call(method, f"{PATH}/{name}{path}", body, headers=headers) for name in ("hidden", "unknown")
            )
            assert (hidden.status_code, hidden.data) == (404, unknown.data), (method, path)

    def test_is_shown_of_a_name_that_is_taken_elsewhere_that_it_is_taken_and_no_more(
        self, api: ApiClient, limited: ApiClient, alice: Tenant, other_id: str
    ) -> None:
        hidden = worker_of(api, "hidden", other_id, q="type:secret").state()

        refused = Worker(limited, "hidden").put(alice.project_id)

        assert (refused.status_code, pointers_of(refused)) == (409, {"/name"})
        assert "outside the projects of your token" in error_of(refused)["message"]
        for known in (other_id, hidden["id"], "type:secret"):
            assert known not in refused.text

    def test_makes_none_of_another_project(self, limited: ApiClient, other_id: str) -> None:
        assert Worker(limited, "mine").put(other_id).status_code == 404


class TestTheList:
    def test_is_newest_first_in_pages_and_by_project(
        self, api: ApiClient, alice: Tenant, charlie: Tenant, app: Flask, other_id: str
    ) -> None:
        for name in "abc":
            worker_of(api, name, alice.project_id)
        worker_of(api, "d", other_id)
        worker_of(api_of(app, charlie), "theirs", charlie.project_id)

        for limit in (1, 2, 4, 50):
            assert [each["name"] for each in api.all_of(PATH, limit=limit)] == ["d", "c", "b", "a"]
        assert [each["name"] for each in api.all_of(PATH, limit=2, project_id=alice.project_id)] == ["c", "b", "a"]
        assert api.all_of(PATH, project_id=charlie.project_id) == []

    def test_goes_on_when_the_last_one_of_a_page_is_deleted(self, api: ApiClient, alice: Tenant) -> None:
        for name in "abc":
            worker_of(api, name, alice.project_id)
        cursor = (api.get(PATH, limit=1).json or {})["next_cursor"]
        api.delete(f"{PATH}/c")

        assert [each["name"] for each in (api.get(PATH, cursor=cursor).json or {})["data"]] == ["b", "a"]

    def test_takes_no_cursor_of_another_list(self, api: ApiClient, alice: Tenant) -> None:
        for name in "ab":
            worker_of(api, name, alice.project_id)
        cursor = (api.get(PATH, limit=1).json or {})["next_cursor"]

        for query in ({"cursor": cursor, "project_id": alice.project_id}, {"cursor": cursor[1:]}, {"cursor": "x"}):
            refused = api.get(PATH, **query)
            assert (refused.status_code, pointers_of(refused)) == (422, {"/cursor"})

    def test_takes_as_many_statements_for_many_as_for_one(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        sent: list[str] = []
        own = threading.get_ident()  # the client's requests are served on this thread; others read limits meanwhile

        def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            if threading.get_ident() == own:
                sent.append(statement)

        def statements() -> int:
            sent.clear()
            for engine in engines:
                event.listen(engine, "before_cursor_execute", note)
            api.get(PATH)
            for engine in engines:
                event.remove(engine, "before_cursor_execute", note)
            return len(sent)

        engines = (context.database.engine, context.reading.engine)
        worker_of(api, "first", alice.project_id)
        of_one = statements()
        for number in range(5):
            worker_of(api, f"n{number}", alice.project_id)

        assert statements() == of_one > 0


class TestDelete:
    def test_frees_the_name_and_makes_old_cursors_worthless(
        self, context: Context, api: ApiClient, billing: Worker, alice: Tenant
    ) -> None:
        billing.put(alice.project_id, start="start")
        store_group(context.database, alice, "1")
        billing.read()
        old = billing.cursor

        assert api.delete(billing.path).status_code == 204
        assert api.get(billing.path).status_code == 404
        assert billing.commit(old).status_code == 404
        assert api.delete(billing.path).status_code == 404
        billing.put(alice.project_id, start="start")
        for refused in (billing.commit(old), billing.seek(old), api.get(f"{billing.path}/events", cursor=old)):
            assert refused.status_code == 422
        assert billing.read() == ["1"]

    def test_takes_a_condition(self, api: ApiClient, billing: Worker, alice: Tenant) -> None:
        seen = billing.put(alice.project_id).headers["ETag"]
        billing.seek("start")

        assert api.delete(billing.path, headers={"If-Match": seen}).status_code == 412
        assert api.delete(billing.path, headers={"If-Match": api.get(billing.path).headers["ETag"]}).status_code == 204


class TestTheAuditLog:
    def test_has_what_operators_do_and_no_commit(
        self, context: Context, api: ApiClient, billing: Worker, alice: Tenant
    ) -> None:
        store_group(context.database, alice, "1")
        made = billing.put(alice.project_id, q="type:a").json or {}
        billing.put(alice.project_id, q="type:a")
        billing.seek("start")
        billing.read()
        billing.commit()
        committed = billing.state()
        api.delete(billing.path)

        *_, deleted, sought, created = entries = api.all_of("/v1/audit", object_id=made["id"])

        assert [each["action"] for each in entries] == ["consumer.delete", "consumer.seek", "consumer.create"]
        assert {each["project_id"] for each in entries} == {alice.project_id}
        assert (created["before"], created["after"]) == ({}, {"name": "billing", "q": "type:a", "start": "now"})
        assert (sought["before"]["position_at"], sought["after"]["position_at"]) == (made["position_at"], None)
        assert deleted["before"] == {"name": "billing", "q": "type:a", "position_at": committed["position_at"]}
        assert deleted["after"] == dict.fromkeys(deleted["before"])

    def test_can_undo_a_seek(self, context: Context, api: ApiClient, billing: Worker, alice: Tenant) -> None:
        billing.put(alice.project_id, start="start")
        for number in "12":
            store_group(context.database, alice, number)
        billing.read(limit=1)
        billing.commit()
        before = billing.state()
        billing.seek("now")

        (entry,) = api.all_of("/v1/audit", action="consumer.seek")
        undone = billing.seek(entry["before"]["cursor"]).json or {}

        assert undone["position_at"] == before["position_at"]
        assert billing.read() == ["2"]

    def test_has_no_seek_that_moves_nothing(self, api: ApiClient, billing: Worker, alice: Tenant) -> None:
        made = billing.put(alice.project_id, start="start")

        assert billing.seek("start").headers["ETag"] == made.headers["ETag"]
        assert api.all_of("/v1/audit", action="consumer.seek") == []
