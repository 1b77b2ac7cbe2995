"""/v1/projects/{id}/environments and /v1/environments."""

from functools import partial

import pytest
from flask.testing import FlaskClient

from tests.support.operating import UNKNOWN_ID, ApiClient, at_once
from tests.support.people import Tenant
from tests.support.sending import error_of, event_for, pointers_of, send


class TestCreate:
    def test_a_new_environment_is_shown_with_its_address(self, api: ApiClient, alice: Tenant) -> None:
        response = api.post(f"/v1/projects/{alice.project_id}/environments", {"name": "qa-2"})

        environment = response.json
        assert response.status_code == 201
        assert environment is not None
        assert set(environment) == {
            "id",
            "project_id",
            "name",
            "description",
            "archived_at",
            "created_at",
            "updated_at",
        }
        assert environment["project_id"] == alice.project_id
        assert response.headers["Location"] == f"/v1/environments/{environment['id']}"
        assert api.get(response.headers["Location"]).json == environment

    @pytest.mark.parametrize(
        "name", ["", "Production", "-x", "_x", "a b", "a.b", "é", "a\n", "a" * 64, "pro\u200bd", "\u0430bc", None, 1]
    )
    def test_a_name_that_producers_could_not_send_is_refused(self, api: ApiClient, alice: Tenant, name: object) -> None:
        refused = api.post(f"/v1/projects/{alice.project_id}/environments", {"name": name})

        assert refused.status_code == 422
        assert pointers_of(refused) == {"/name"}

    @pytest.mark.parametrize("name", ["a", "0", "a" * 63, "pre-prod_2"])
    def test_a_lower_case_word_of_63_characters_is_a_name(self, api: ApiClient, alice: Tenant, name: str) -> None:
        assert api.made(f"/v1/projects/{alice.project_id}/environments", {"name": name})["name"] == name

    def test_a_name_is_taken_once_per_project(self, api: ApiClient, alice: Tenant) -> None:
        other = api.made("/v1/projects", {"name": "Other"})["id"]

        refused = api.post(f"/v1/projects/{other}/environments", {"name": "staging"})

        assert refused.status_code == 409
        assert '"staging"' in error_of(refused)["message"]
        api.made(f"/v1/projects/{alice.project_id}/environments", {"name": "staging"})

    def test_of_many_that_ask_for_one_name_at_once_one_gets_it(self, api: ApiClient, alice: Tenant) -> None:
        path = f"/v1/projects/{alice.project_id}/environments"

        responses = at_once([partial(api.post, path, {"name": "raced"})] * 6)

        assert sorted(each.status_code for each in responses) == [201] + [409] * 5


def test_a_list_holds_the_projects_own_environments_only(api: ApiClient, alice: Tenant) -> None:
    api.made("/v1/projects", {"name": "Other"})

    listed = api.all_of(f"/v1/projects/{alice.project_id}/environments")

    assert [each["id"] for each in listed] == [alice.environment_id]


class TestChange:
    def test_a_description_changes_alone(self, api: ApiClient, alice: Tenant) -> None:
        path = f"/v1/environments/{alice.environment_id}"
        before = api.get(path).json

        after = api.patch(path, {"description": "What customers see"}).json

        assert after is not None
        assert before is not None
        assert after["description"] == "What customers see"
        assert after["name"] == before["name"]
        assert after["updated_at"] > before["updated_at"]

    def test_events_name_the_new_environment_from_then_on(
        self, api: ApiClient, client: FlaskClient, alice: Tenant
    ) -> None:
        assert send(client, alice, event_for(alice, environment="production")).status_code == 201

        api.patch(f"/v1/environments/{alice.environment_id}", {"name": "live"})

        old = send(client, alice, event_for(alice, environment="production"))
        assert (old.status_code, error_of(old)["code"]) == (403, "environment_mismatch")
        assert send(client, alice, event_for(alice, environment="live")).status_code == 201

    def test_a_name_of_another_environment_is_refused(self, api: ApiClient, alice: Tenant) -> None:
        other = api.made(f"/v1/projects/{alice.project_id}/environments", {"name": "other"})["id"]

        assert api.patch(f"/v1/environments/{other}", {"name": "production"}).status_code == 409


class TestArchive:
    def test_an_archived_environment_is_gone_with_all_below_it(
        self, api: ApiClient, client: FlaskClient, alice: Tenant
    ) -> None:
        assert api.delete(f"/v1/environments/{alice.environment_id}").status_code == 204

        below = [
            f"/v1/environments/{alice.environment_id}",
            f"/v1/environments/{alice.environment_id}/sources",
            f"/v1/sources/{alice.source_id}",
            f"/v1/sources/{alice.source_id}/keys",
            f"/v1/keys/{alice.key_id}",
        ]
        assert [api.get(path).status_code for path in below] == [404] * 5
        assert api.all_of(f"/v1/projects/{alice.project_id}/environments") == []
        assert api.all_of("/v1/sources") == []
        assert send(client, alice).status_code == 403

    def test_its_name_is_free_again(self, api: ApiClient, alice: Tenant) -> None:
        api.delete(f"/v1/environments/{alice.environment_id}")

        api.made(f"/v1/projects/{alice.project_id}/environments", {"name": "production"})


def test_an_unknown_environment_is_not_found(api: ApiClient) -> None:
    assert api.get(f"/v1/environments/env_{UNKNOWN_ID}").status_code == 404
    assert api.get(f"/v1/projects/prj_{UNKNOWN_ID}/environments").status_code == 404
    assert api.post(f"/v1/projects/prj_{UNKNOWN_ID}/environments", {"name": "x"}).status_code == 404
