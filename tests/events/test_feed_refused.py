"""Cursors of a feed, and requests for one that are refused."""

import json
from typing import Any
from unittest.mock import patch

import pytest
from flask import Flask
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from app.config import Settings
from app.context import Context
from app.events.feed import domain
from app.events.feed.cursors import FeedCursors, Place, behind_all_of
from app.management.common.authentication import authenticate
from app.management.common.operators import Role
from app.management.tokens.domain import NewToken
from tests.support.examples import examples
from tests.support.following import FEED, Consumer, store_group
from tests.support.operating import ApiClient, api_of, api_with
from tests.support.people import Tenant
from tests.support.sending import error_of, pointers_of


@pytest.fixture(name="api")
def _api(app: Flask, alice: Tenant) -> ApiClient:
    return api_of(app, alice)


@pytest.fixture(name="consumer")
def _consumer(api: ApiClient, alice: Tenant) -> Consumer:
    return Consumer(api, alice.project_id)


class TestACursor:
    @pytest.fixture(name="cursor")
    def _cursor(self, context: Context, consumer: Consumer, alice: Tenant) -> str:
        store_group(context.database, alice, "1", "2")
        consumer.page(limit=1)
        return consumer.cursor

    def test_of_a_part_of_the_group_goes_on_in_it(self, consumer: Consumer, cursor: str) -> None:
        consumer.cursor = cursor

        assert len(consumer.page()) == 1

    def test_that_was_cut_or_forged_is_refused(self, api: ApiClient, alice: Tenant, cursor: str) -> None:
        body, dot, signature = cursor.rpartition(".")
        other = "A" if signature[0] != "A" else "B"
        for forged in (
            cursor[:-1],
            cursor[1:],
            body,
            signature,
            body + dot,
            f"{body}.{other}{signature[1:]}",
            ".",
            "x",
        ):
            response = api.get(FEED, project_id=alice.project_id, cursor=forged)
            assert (response.status_code, pointers_of(response)) == (422, {"/cursor"}), forged

    def test_of_another_project_workspace_or_token_is_refused(
        self, app: Flask, context: Context, api: ApiClient, alice: Tenant, charlie: Tenant, cursor: str
    ) -> None:
        other = api.made("/v1/projects", {"name": "other"})["id"]
        colleague = api_with(app, context, alice, NewToken(role=Role.AUDITOR, label="colleague"))
        for caller, project in (
            (api, other),
            (api_of(app, charlie), charlie.project_id),
            (colleague, alice.project_id),
        ):
            response = caller.get(FEED, project_id=project, cursor=cursor)
            assert (response.status_code, pointers_of(response)) == (422, {"/cursor"})

    @given(text=st.text(min_size=1, max_size=250))
    @hypothesis(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_of_any_other_text_is_refused(self, app: Flask, alice: Tenant, text: str) -> None:
        response = api_of(app, alice).get(FEED, project_id=alice.project_id, cursor=text)

        assert response.status_code == (200 if text in ("start", "now") else 422)


class TestWhatIsRefused:
    def test_is_the_feed_of_others_and_of_none_alike(self, app: Flask, alice: Tenant, charlie: Tenant) -> None:
        answers = {
            api_of(app, alice).call("GET", f"{FEED}?project_id={project}", headers={"X-Request-ID": "the-same"}).text
            for project in (charlie.project_id, "prj_none")
        }
        assert len(answers) == 1
        assert json.loads(answers.pop())["error"]["code"] == "not_found"

    def test_is_a_project_beyond_the_token_s_reach(
        self, app: Flask, context: Context, api: ApiClient, alice: Tenant
    ) -> None:
        other = api.made("/v1/projects", {"name": "other"})["id"]
        limited = api_with(app, context, alice, NewToken(role=Role.AUDITOR, label="limited", project_ids=(other,)))

        assert limited.get(FEED, project_id=other).status_code == 200
        assert limited.get(FEED, project_id=alice.project_id).status_code == 404

    @pytest.mark.parametrize(
        "query",
        [
            *({"limit": limit} for limit in (0, -1, 1_001, "", "1.5", "x")),
            *({"wait": wait} for wait in (-1, 26, 100, "", "1.5", "x", "+1")),
            {"cursor": ""},
            {"project_id": ""},
            {"other": 1},
        ],
        ids=str,
    )
    def test_is_a_query_that_is_wrong(self, api: ApiClient, alice: Tenant, query: dict[str, Any]) -> None:
        response = api.get(FEED, **{"project_id": alice.project_id} | query)

        assert (response.status_code, pointers_of(response)) == (422, {f"/{name}" for name in query})

    def test_is_a_query_without_a_project(self, api: ApiClient) -> None:
        response = api.get(FEED)

        assert (response.status_code, pointers_of(response)) == (422, {"/project_id"})


class TestARestoredDatabase:
    """It is older than the cursor of a follower."""

    @pytest.fixture(name="cursors")
    def _cursors(self, context: Context, settings: Settings, alice: Tenant) -> FeedCursors:
        operator = authenticate(f"Bearer {alice.token}", context.credentials, context.database)
        return FeedCursors.of(settings.secret_key, operator, alice.project_id, "")

    def test_refuses_a_cursor_beyond_all_of_its_events(
        self, context: Context, cursors: FeedCursors, consumer: Consumer, alice: Tenant
    ) -> None:
        store_group(context.database, alice, "1")
        consumer.page()
        place = cursors.read(consumer.cursor)
        lost = cursors.write(Place(1 << 62, place.event_uid))

        for wait in (0, 25):
            refused = consumer.api.get(FEED, project_id=alice.project_id, cursor=lost, wait=wait)
            assert (refused.status_code, error_of(refused)["code"]) == (409, "conflict")
            assert "restored from a backup" in error_of(refused)["message"]

    def test_does_not_tell_a_stranger(
        self, app: Flask, context: Context, settings: Settings, charlie: Tenant, alice: Tenant
    ) -> None:
        operator = authenticate(f"Bearer {charlie.token}", context.credentials, context.database)
        cursors = FeedCursors.of(settings.secret_key, operator, alice.project_id, "")

        lost = cursors.write(behind_all_of(1 << 62))
        assert api_of(app, charlie).get(FEED, project_id=alice.project_id, cursor=lost).status_code == 404

    def test_is_not_what_a_group_that_takes_its_position_makes_of_one(
        self, context: Context, consumer: Consumer, alice: Tenant
    ) -> None:
        """It lowers the horizon below what has been read."""
        store_group(context.database, alice, "1")
        consumer.page()

        with patch.object(domain, "read_horizon", return_value=1):
            assert consumer.page() == []
        store_group(context.database, alice, "2")
        assert consumer.page() == ["2"]


class TestTheQuery:
    def test_is_one_of_the_language_and_filters(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        for number in range(6):
            kind = ("payment.failed", "order.created")[number % 2]
            store_group(context.database, alice, str(number), event_type=kind, payload={"n": number})

        found = api.get(FEED, project_id=alice.project_id, q="type:payment.* payload.n>1 env:production").json
        assert found is not None
        assert [event["event_id"] for event in found["data"]] == ["2", "4"]

    def test_that_is_wrong_is_refused_with_its_place(self, api: ApiClient, alice: Tenant) -> None:
        for q in ("sevrity:error", "source:src_none", "("):
            assert pointers_of(api.get(FEED, project_id=alice.project_id, q=q)) == {"/q"}

    def test_belongs_to_its_cursors(self, api: ApiClient, alice: Tenant) -> None:
        cursor = (api.get(FEED, project_id=alice.project_id, q="type:a").json or {})["next_cursor"]

        assert api.get(FEED, project_id=alice.project_id, q="type:a", cursor=cursor).status_code == 200
        assert api.get(FEED, project_id=alice.project_id, q=" type:a ", cursor=cursor).status_code == 200
        for q in ("", "type:b"):
            assert pointers_of(api.get(FEED, project_id=alice.project_id, q=q, cursor=cursor)) == {"/cursor"}
