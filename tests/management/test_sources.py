"""/v1/environments/{id}/sources and /v1/sources: create, list, filter, read, change, enable, disable, archive."""

from functools import partial
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.context import Context
from app.maintenance.usage import fold_usage
from tests.support.operating import MOMENT, UNKNOWN_ID, ApiClient, at_once
from tests.support.people import Tenant
from tests.support.sending import error_of, pointers_of, send


def _make(api: ApiClient, environment_id: str, **changes: Any) -> dict[str, Any]:
    return api.made(f"/v1/environments/{environment_id}/sources", {"name": "ERP", "type": "erp"} | changes)


_TIMESTAMPS = {
    "timestamp_policy": "mark",
    "timestamp_ahead_seconds_max": 86_400,
    "timestamp_behind_seconds_max": 2_592_000,
}


class TestTimestamps:
    """What a source makes of timestamps that are far from their receipt."""

    def test_a_new_source_marks_what_is_more_than_a_day_ahead_or_thirty_behind(
        self, api: ApiClient, alice: Tenant
    ) -> None:
        source = _make(api, alice.environment_id)

        assert _TIMESTAMPS.items() <= source.items()

    def test_it_can_be_created_and_changed_with_others(self, api: ApiClient, alice: Tenant) -> None:
        chosen = {
            "timestamp_policy": "refuse",
            "timestamp_ahead_seconds_max": 60,
            "timestamp_behind_seconds_max": 315_360_000,
        }
        source = _make(api, alice.environment_id, **chosen)
        assert chosen.items() <= source.items()

        changed = api.patch(f"/v1/sources/{source['id']}", {"timestamp_policy": "accept"})

        assert changed.json is not None
        assert (chosen | {"timestamp_policy": "accept"}).items() <= changed.json.items()

    @pytest.mark.parametrize(
        "wrong",
        [
            {"timestamp_policy": "drop"},
            {"timestamp_policy": None},
            {"timestamp_ahead_seconds_max": 0},
            {"timestamp_ahead_seconds_max": 1.5},
            {"timestamp_behind_seconds_max": "60"},
            {"timestamp_behind_seconds_max": 315_360_001},
        ],
    )
    def test_what_is_no_policy_or_no_bound_is_refused(
        self, api: ApiClient, alice: Tenant, wrong: dict[str, object]
    ) -> None:
        refused = api.post(f"/v1/environments/{alice.environment_id}/sources", {"name": "ERP", "type": "erp"} | wrong)

        assert refused.status_code == 422
        assert pointers_of(refused) == {f"/{name}" for name in wrong}


class TestCreate:
    def test_a_new_source_is_enabled_and_shown_with_its_address(self, api: ApiClient, alice: Tenant) -> None:
        path = f"/v1/environments/{alice.environment_id}/sources"

        response = api.post(path, {"name": "ERP", "type": "erp", "description": "The old one"})

        source = response.json
        assert response.status_code == 201
        assert source is not None
        parents = {"project_id": alice.project_id, "environment_id": alice.environment_id}
        chosen = {"name": "ERP", "type": "erp", "description": "The old one"}
        assert parents.items() | chosen.items() <= source.items()
        assert (source["status"], source["last_event_at"]) == ("enabled", None)
        own = {"id", "status", "last_event_at", "archived_at", "created_at", "updated_at"} | set(_TIMESTAMPS)
        assert set(source) == own | set(parents) | set(chosen)
        assert response.headers["Location"] == f"/v1/sources/{source['id']}"
        assert api.get(response.headers["Location"]).json == source

    @pytest.mark.parametrize("kind", ["", "Backend", "backend ", "toaster", None, 1, ["backend"]])
    def test_a_type_that_is_not_known_is_refused(self, api: ApiClient, alice: Tenant, kind: object) -> None:
        refused = api.post(f"/v1/environments/{alice.environment_id}/sources", {"name": "ERP", "type": kind})

        assert refused.status_code == 422
        assert pointers_of(refused) == {"/type"}

    def test_all_that_is_wrong_is_chosen_at_once(self, api: ApiClient, alice: Tenant) -> None:
        refused = api.post(
            f"/v1/environments/{alice.environment_id}/sources",
            {"nmae": "ERP", "description": 1, "status": "disabled", "json": 1},
        )

        assert pointers_of(refused) == {"/name", "/type", "/nmae", "/description", "/status", "/json"}

    def test_a_name_is_taken_once_per_environment(self, api: ApiClient, alice: Tenant) -> None:
        other = api.made(f"/v1/projects/{alice.project_id}/environments", {"name": "other"})["id"]
        _make(api, alice.environment_id)

        refused = api.post(f"/v1/environments/{alice.environment_id}/sources", {"name": "ERP", "type": "worker"})

        assert refused.status_code == 409
        assert '"ERP"' in error_of(refused)["message"]
        _make(api, other)

    def test_of_many_that_ask_for_one_name_at_once_one_gets_it(self, api: ApiClient, alice: Tenant) -> None:
        path = f"/v1/environments/{alice.environment_id}/sources"

        responses = at_once([partial(api.post, path, {"name": "Raced", "type": "erp"})] * 6)

        assert sorted(each.status_code for each in responses) == [201] + [409] * 5


class TestList:
    @pytest.fixture(name="made")
    def _made(self, api: ApiClient, alice: Tenant) -> dict[str, str]:
        """Alice's checkout, a disabled ERP beside it, and a worker in another project."""
        erp = _make(api, alice.environment_id)["id"]
        api.post(f"/v1/sources/{erp}/disable")
        project = api.made("/v1/projects", {"name": "Other"})["id"]
        environment = api.all_of(f"/v1/projects/{project}/environments")[0]["id"]
        worker = _make(api, environment, type="worker")["id"]
        return {"project": project, "environment": environment, "erp": erp, "worker": worker}

    def test_it_holds_all_sources_of_the_workspace_the_newest_first(
        self, api: ApiClient, alice: Tenant, made: dict[str, str]
    ) -> None:
        listed = [source["id"] for source in api.all_of("/v1/sources")]

        assert listed == [made["worker"], made["erp"], alice.source_id]

    def test_each_filter_narrows_it(self, api: ApiClient, alice: Tenant, made: dict[str, str]) -> None:
        def listed(**query: str) -> list[str]:
            return [source["id"] for source in api.all_of("/v1/sources", **query)]

        assert listed(project_id=made["project"]) == [made["worker"]]
        assert listed(environment_id=alice.environment_id) == [made["erp"], alice.source_id]
        assert listed(type="erp") == [made["erp"]]
        assert listed(status="disabled") == [made["erp"]]
        assert listed(status="enabled") == [made["worker"], alice.source_id]
        assert listed(status="enabled", type="backend", project_id=alice.project_id) == [alice.source_id]
        assert listed(project_id=made["project"], environment_id=alice.environment_id) == []

    def test_an_environments_list_holds_its_own_only(self, api: ApiClient, alice: Tenant, made: dict[str, str]) -> None:
        listed = api.all_of(f"/v1/environments/{made['environment']}/sources")

        assert [source["id"] for source in listed] == [made["worker"]]

    def test_a_strangers_id_filters_like_an_unknown_one(self, api: ApiClient, charlie: Tenant) -> None:
        answers = [
            api.get("/v1/sources", **query).data
            for query in (
                {"project_id": charlie.project_id},
                {"project_id": f"prj_{UNKNOWN_ID}"},
                {"environment_id": charlie.environment_id},
            )
        ]

        assert answers == [b'{"data":[],"next_cursor":null}\n'] * 3

    @pytest.mark.parametrize(
        ("query", "pointers"),
        [
            ({"type": "toaster"}, {"/type"}),
            ({"status": "Enabled"}, {"/status"}),
            ({"status": ""}, {"/status"}),
            ({"project_id": "\0"}, {"/project_id"}),
            ({"project_id": ""}, {"/project_id"}),
            ({"environment_id": "a" * 65}, {"/environment_id"}),
            ({"name": "ERP"}, {"/name"}),
            ({"status": ["enabled", "disabled"]}, {"/status"}),
            ({"type": "x", "status": "x"}, {"/type", "/status"}),
        ],
    )
    def test_a_filter_that_means_nothing_is_refused(
        self, api: ApiClient, query: dict[str, Any], pointers: set[str]
    ) -> None:
        refused = api.get("/v1/sources", **query)

        assert refused.status_code == 422
        assert pointers_of(refused) == pointers


class TestChange:
    def test_name_type_and_description_can_change(self, api: ApiClient, alice: Tenant) -> None:
        path = f"/v1/sources/{alice.source_id}"
        chosen = {"name": "Till", "type": "mobile", "description": "At the door"}

        changed = api.patch(path, chosen)

        assert changed.json is not None
        assert chosen.items() <= changed.json.items()
        assert api.get(path).json == changed.json

    @pytest.mark.parametrize("member", ["status", "environment_id", "id", "last_event_at", "archived_at"])
    def test_what_is_not_for_operators_to_set_is_refused(self, api: ApiClient, alice: Tenant, member: str) -> None:
        refused = api.patch(f"/v1/sources/{alice.source_id}", {member: "disabled"})

        assert refused.status_code == 422
        assert pointers_of(refused) == {f"/{member}"}


class TestDisable:
    def test_a_disabled_source_stores_nothing_until_it_is_enabled(
        self, api: ApiClient, client: FlaskClient, alice: Tenant
    ) -> None:
        disabled = api.post(f"/v1/sources/{alice.source_id}/disable").json
        assert disabled is not None
        assert disabled["status"] == "disabled"
        assert error_of(send(client, alice))["code"] == "source_disabled"

        enabled = api.post(f"/v1/sources/{alice.source_id}/enable").json
        assert enabled is not None
        assert enabled["status"] == "enabled"
        assert send(client, alice).status_code == 201

    @pytest.mark.parametrize("verb", ["enable", "disable"])
    def test_repeating_it_changes_nothing_more(self, api: ApiClient, alice: Tenant, verb: str) -> None:
        first = api.post(f"/v1/sources/{alice.source_id}/{verb}")

        again = api.post(f"/v1/sources/{alice.source_id}/{verb}")

        assert (again.status_code, again.json) == (200, first.json)
        assert again.headers["ETag"] == first.headers["ETag"]


def test_an_archived_source_is_gone_with_its_keys(api: ApiClient, client: FlaskClient, alice: Tenant) -> None:
    assert api.delete(f"/v1/sources/{alice.source_id}").status_code == 204

    paths = [f"/v1/sources/{alice.source_id}", f"/v1/sources/{alice.source_id}/keys", f"/v1/keys/{alice.key_id}"]
    assert [api.get(path).status_code for path in paths] == [404] * 3
    assert api.all_of("/v1/sources") == []
    assert send(client, alice).status_code == 403
    api.made(f"/v1/environments/{alice.environment_id}/sources", {"name": "checkout", "type": "backend"})


def test_the_time_of_the_last_event_does_not_count_as_a_change(
    api: ApiClient, client: FlaskClient, context: Context, alice: Tenant
) -> None:
    before = api.get(f"/v1/sources/{alice.source_id}")
    assert send(client, alice).status_code == 201

    fold_usage(context.database)

    after = api.get(f"/v1/sources/{alice.source_id}")
    assert before.json is not None
    assert after.json is not None
    assert MOMENT.fullmatch(after.json["last_event_at"])
    assert after.json["updated_at"] == before.json["updated_at"]
    assert after.headers["ETag"] == before.headers["ETag"]
