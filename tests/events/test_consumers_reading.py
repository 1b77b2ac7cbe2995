"""What a consumer is shown, and what moves it: at least once, forward by commits, anywhere by seeks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from flask import Flask
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from app.config import Settings
from app.context import Context
from app.events.consumers.cursors import ConsumerCursors, bookmark_of
from app.events.consumers.places import moment_in
from app.events.feed.cursors import behind_all_of
from app.management.common.operators import Role
from app.management.tokens.domain import NewToken
from app.models import Consumer as ConsumerRow
from tests.support.consuming import Worker, worker_of
from tests.support.examples import examples
from tests.support.following import Consumer, Group, store_group
from tests.support.operating import ApiClient, api_of, api_with, at_once
from tests.support.people import Tenant, execute
from tests.support.sending import error_of, pointers_of


@pytest.fixture(name="api")
def _api(app: Flask, alice: Tenant) -> ApiClient:
    return api_of(app, alice)


@pytest.fixture(name="worker")
def _worker(api: ApiClient, alice: Tenant) -> Worker:
    """Of a consumer that begins at the start."""
    return worker_of(api, "billing", alice.project_id, start="start")


Store = Callable[..., None]


@pytest.fixture(name="store")
def _store(context: Context, alice: Tenant) -> Store:
    """Stores events one by one."""

    def store(*event_ids: str, **changes: Any) -> None:
        for event_id in event_ids:
            store_group(context.database, alice, event_id, **changes)

    return store


class TestReading:
    def test_shows_the_same_until_it_is_committed(self, worker: Worker, store: Store) -> None:
        store("1", "2", "3")

        assert [worker.read(limit=2), worker.read(limit=2)] == [["1", "2"]] * 2
        worker.commit()
        assert worker.read(limit=2) == ["3"]

    def test_shows_events_as_the_feed_does(self, api: ApiClient, worker: Worker, store: Store, alice: Tenant) -> None:
        store("1", payload={"amount": 49.990}, severity="error")

        feed = api.get("/v1/events/feed", project_id=alice.project_id).json or {}
        assert (api.get(f"{worker.path}/events").json or {})["data"] == feed["data"]

    def test_shows_what_its_query_admits_and_commits_what_it_does_not(
        self, api: ApiClient, alice: Tenant, store: Store
    ) -> None:
        worker = worker_of(api, "errors", alice.project_id, q="severity:error", start="start")
        store("1", "2", severity="info")
        store("3", severity="error")
        store("4", severity="info")

        assert worker.read(limit=1) == ["3"]
        worker.commit()
        assert worker.read() == []
        worker.commit()
        store("5", severity="error")
        assert worker.read() == ["5"]

    def test_goes_on_behind_a_cursor_before_that_is_committed(self, worker: Worker, store: Store) -> None:
        store("1", "2", "3")
        pages = [worker.read(limit=1), worker.read(limit=1, cursor=worker.cursor), worker.read(limit=1)]
        first = worker.cursor

        assert pages == [["1"], ["2"], ["1"]]
        assert worker.read(limit=1, cursor=first) == ["2"]
        worker.commit()
        assert worker.read() == ["3"]

    def test_waits_for_what_commits_before(self, context: Context, worker: Worker, alice: Tenant) -> None:
        with Group(context.database, alice, "1"):
            store_group(context.database, alice, "2")
            assert worker.read() == []
            worker.commit()
        assert worker.read() == ["1", "2"]

    def test_goes_on_when_its_project_is_archived_and_its_workspace_suspended(
        self, context: Context, worker: Worker, store: Store, alice: Tenant
    ) -> None:
        store("1", "2")
        worker.api.delete(f"/v1/projects/{alice.project_id}")
        execute(context, "UPDATE workspaces SET status = 'suspended' WHERE id = :id", id=alice.workspace_row)

        assert worker.read(limit=1) == ["1"]
        assert worker.commit().status_code == 200
        assert worker.read(limit=1) == ["2"]

    def test_goes_on_with_the_oldest_event_that_is_kept(
        self, settings: Settings, worker: Worker, store: Store, alice: Tenant
    ) -> None:
        store("1", "2", "3", "4")
        worker.read(limit=1)
        worker.commit()
        with psycopg.connect(settings.admin_database_url) as owner:
            gone = "DELETE FROM events WHERE project_id = %s AND event_id IN ('1', '2', '3')"
            assert owner.execute(gone, [alice.project_row]).rowcount == 3

        assert worker.read(limit=1) == ["4"]
        assert worker.state()["lag"]["events"] == 1

    @given(data=st.data())
    @hypothesis(max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_shows_each_event_at_least_once_and_in_order_whenever_a_worker_dies(
        self, app: Flask, context: Context, tenant: Callable[[], Tenant], data: st.DataObject
    ) -> None:
        dora = tenant()
        worker = worker_of(api_of(app, dora), "w", dora.project_id, start="start")
        done: list[str] = []
        finished: list[str] = []
        stored = 0
        for step in data.draw(
            st.lists(st.sampled_from(["store", "work", "die", "commit", "commit late"]), max_size=20)
        ):
            if step == "store":
                store_group(context.database, dora, f"{stored:02}a", f"{stored:02}b")
                stored += 1
            elif step in ("work", "die"):
                page = worker.read(limit=data.draw(st.integers(1, 3)))
                if step == "work":
                    done += page
                    finished.append(worker.cursor)
            elif finished:
                assert worker.commit(finished[-1] if step == "commit" else finished[0]).status_code == 200
        while page := worker.read():
            done += page
            worker.commit()

        assert list(dict.fromkeys(each[:2] for each in done)) == [f"{number:02}" for number in range(stored)]
        assert len(set(done)) == 2 * stored


class TestACommit:
    def test_that_comes_late_moves_nothing_back_and_is_shown_where_the_consumer_is(
        self, worker: Worker, store: Store
    ) -> None:
        store("1", "2", "3")
        worker.read(limit=1)
        early = worker.cursor
        worker.read(limit=2)
        latest = worker.commit().json

        assert worker.commit(early).json == latest
        assert worker.read() == ["3"]

    def test_may_be_repeated(self, worker: Worker, store: Store) -> None:
        store("1")
        worker.read()
        first = worker.commit()

        assert [worker.commit().json for _ in range(3)] == [first.json] * 3
        named = {"Idempotency-Key": "k"}
        once, twice = worker.commit(headers=named), worker.commit(headers=named)
        assert once.json == twice.json == first.json
        assert twice.headers["Idempotent-Replayed"] == "true"

    def test_says_when_and_up_to_which_receipt(
        self, api: ApiClient, worker: Worker, store: Store, alice: Tenant
    ) -> None:
        assert (worker.state()["position_at"], worker.state()["committed_at"]) == (None, None)
        store("1", "2")
        worker.read(limit=1)
        worker.commit()
        received = (api.get(f"/v1/sources/{alice.source_id}/events/1").json or {})["received_at"]
        committed = worker.state()

        assert committed["position_at"] == received
        assert committed["committed_at"] > committed["position_at"] > committed["created_at"]
        assert committed["updated_at"] == committed["created_at"]

    def test_of_an_empty_page_keeps_the_moment_of_the_last_event(self, worker: Worker, store: Store) -> None:
        store("1")
        worker.read()
        before = (worker.commit().json or {})["position_at"]
        assert worker.read() == []

        assert (worker.commit().json or {})["position_at"] == before

    def test_beside_others_leaves_the_one_that_leads_further(self, worker: Worker, store: Store) -> None:
        store(*"12345678")
        cursors = []
        for _ in range(8):
            worker.read(limit=1, **({"cursor": worker.cursor} if worker.cursor else {}))
            cursors.append(worker.cursor)

        answers = at_once([lambda each=each: worker.commit(each) for each in cursors])  # type: ignore[misc]

        assert {each.status_code for each in answers} == {200}
        assert worker.read() == []

    def test_may_be_another_tokens(
        self, app: Flask, context: Context, worker: Worker, store: Store, alice: Tenant
    ) -> None:
        store("1", "2")
        worker.read(limit=1)
        successor = api_with(app, context, alice, NewToken(role=Role.DEVELOPER))
        worker.api.post(f"/v1/tokens/{alice.token_id}/revoke")

        other = Worker(successor, worker.name)
        assert worker.commit().status_code == 401
        assert other.commit(worker.cursor).status_code == 200
        assert other.read() == ["2"]

    def test_takes_no_auditor(self, app: Flask, context: Context, worker: Worker, store: Store, alice: Tenant) -> None:
        auditor = Worker(api_with(app, context, alice, NewToken(role=Role.AUDITOR)), worker.name)
        store("1")

        assert auditor.read() == ["1"]
        assert auditor.commit().status_code == 403


class TestACursor:
    def test_of_another_consumer_workspace_or_of_a_feed_is_refused(
        self, app: Flask, api: ApiClient, worker: Worker, store: Store, alice: Tenant, charlie: Tenant
    ) -> None:
        store("1")
        feed = Consumer(api, alice.project_id)
        feed.page()
        same, theirs = (
            worker_of(each, name, project_id, start="start")
            for each, name, project_id in (
                (api, "same", alice.project_id),
                (api_of(app, charlie), "billing", charlie.project_id),
            )
        )
        for other in (same, theirs):
            other.read()

        for cursor in (feed.cursor, same.cursor, theirs.cursor):
            self._is_refused(worker, cursor)
        refused = api.get("/v1/events/feed", project_id=alice.project_id, cursor=same.cursor)
        assert refused.status_code == 422

    def test_that_was_cut_or_forged_is_refused(self, worker: Worker, store: Store) -> None:
        store("1")
        worker.read()
        body, dot, signature = worker.cursor.rpartition(".")
        other = "A" if signature[0] != "A" else "B"
        forged = [worker.cursor[:-1], worker.cursor[1:], body, signature, body + dot, ".", "start", "now"]

        for cursor in (*forged, f"{body}.{other}{signature[1:]}"):
            self._is_refused(worker, cursor, may_seek=cursor in ("start", "now"))

    @given(text=st.text(min_size=1, max_size=450))
    @example(text="0001-01-01T00:00:00Z")  # a consumer can be put there, and not by a cursor
    @hypothesis(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_of_any_other_text_is_refused(self, worker: Worker, text: str) -> None:
        self._is_refused(worker, text, may_seek=text in ("start", "now") or moment_in(text) is not None)

    @staticmethod
    def _is_refused(worker: Worker, cursor: str, *, may_seek: bool = False) -> None:
        read = worker.api.get(f"{worker.path}/events", cursor=cursor)
        for refused in (read, worker.api.post(f"{worker.path}/commit", {"cursor": cursor})):
            assert (refused.status_code, pointers_of(refused)) == (422, {"/cursor"}), cursor
        if not may_seek:
            refused = worker.seek(cursor)
            assert (refused.status_code, pointers_of(refused)) == (422, {"/to"}), cursor


class TestASeek:
    def test_to_the_start_shows_all_again(self, worker: Worker, store: Store) -> None:
        store("1", "2")
        worker.read()
        committed = worker.commit().json or {}

        moved = worker.seek("start").json or {}

        assert (moved["position_at"], moved["committed_at"]) == (None, committed["committed_at"])
        assert moved["updated_at"] > committed["updated_at"]
        assert worker.read() == ["1", "2"]

    def test_to_now_shows_what_comes(self, worker: Worker, store: Store) -> None:
        store("1", "2")
        moved = worker.seek("now").json or {}
        store("3")

        assert moved["position_at"] is not None
        assert worker.read() == ["3"]

    def test_to_a_cursor_shows_what_is_behind_it_however_old_it_is(self, worker: Worker, store: Store) -> None:
        store("1", "2", "3")
        worker.read(limit=1)
        kept = worker.cursor
        worker.seek("now")
        worker.seek("start")

        worker.seek(kept)

        assert worker.read() == ["2", "3"]

    @pytest.mark.parametrize("to", ["start", "now"])
    def test_is_not_undone_by_a_worker_that_was_at_its_work(self, worker: Worker, store: Store, to: str) -> None:
        store("1", "2", "3")
        worker.read(limit=2)
        worker.commit()
        worker.read()
        at_work = worker.cursor
        worker.seek(to)
        state = worker.state()

        for refused in (worker.commit(at_work), worker.api.get(f"{worker.path}/events", cursor=at_work)):
            assert refused.status_code == 409
            assert "Read on without a cursor" in error_of(refused)["message"]
        assert worker.state() | {"lag": None} == state | {"lag": None}
        assert worker.read() == ([] if to == "now" else ["1", "2", "3"])
        assert worker.commit().status_code == 200


class TestARestoredDatabase:
    """It is older than what its consumers have said and been shown."""

    @pytest.fixture(name="row")
    def _row(self, context: Context, worker: Worker, store: Store, alice: Tenant) -> ConsumerRow:
        store("1", "2", "3")
        worker.read(limit=2)
        worker.commit()
        worker.read()
        return _row_of(context, alice)

    def test_refuses_a_cursor_of_a_commit_that_it_has_lost(
        self, context: Context, worker: Worker, row: ConsumerRow
    ) -> None:
        execute(context, "UPDATE consumers SET position = position - 1 WHERE id = :id", id=row.id)

        for refused in (worker.commit(), worker.api.get(f"{worker.path}/events", cursor=worker.cursor)):
            assert refused.status_code == 409
            assert "restored from a backup" in error_of(refused)["message"]

    def test_refuses_a_cursor_of_a_seek_that_it_has_lost(
        self, context: Context, worker: Worker, row: ConsumerRow
    ) -> None:
        """Also after as many seeks as the lost state had seen."""
        worker.seek("start")
        worker.read(limit=2)
        lost = worker.cursor
        execute(
            context,
            "UPDATE consumers SET position = :position, event_uid = :uid, seek_number = :number WHERE id = :id",
            position=row.position,
            uid=row.event_uid,
            number=row.seek_number,
            id=row.id,
        )
        assert worker.seek("start").status_code == 200

        for refused in (worker.commit(lost), worker.api.get(f"{worker.path}/events", cursor=lost)):
            assert refused.status_code == 409
        assert worker.read() == ["1", "2", "3"]

    def test_refuses_a_cursor_beyond_all_of_its_events(
        self, settings: Settings, worker: Worker, row: ConsumerRow
    ) -> None:
        beyond = replace(bookmark_of(row), place=behind_all_of(1 << 62))
        cursor = ConsumerCursors(settings.secret_key, row).write(beyond)

        refusals = worker.commit(cursor), worker.api.get(f"{worker.path}/events", cursor=cursor), worker.seek(cursor)
        for refused in refusals:
            assert refused.status_code == 409
            assert "restored from a backup" in error_of(refused)["message"]
        assert worker.read() == ["3"]

    def test_says_of_a_consumer_that_lies_there_what_to_do(
        self, context: Context, worker: Worker, row: ConsumerRow
    ) -> None:
        execute(context, "UPDATE consumers SET position = :far WHERE id = :id", far=1 << 62, id=row.id)

        refused = worker.api.get(f"{worker.path}/events")

        assert refused.status_code == 409
        assert "from start or from now" in error_of(refused)["message"]
        assert worker.state()["lag"] == {"events": 0, "is_more": True, "seconds": None}
        assert worker.seek("start").status_code == 200
        assert worker.read() == ["1", "2", "3"]


def _row_of(context: Context, tenant: Tenant) -> ConsumerRow:
    with context.database.transaction(tenant.workspace_row) as session:
        return session.scalars(ConsumerRow.within(tenant.workspace_row)).one()
