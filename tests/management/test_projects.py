"""/v1/projects: create, list, read, change, archive."""

from functools import partial

from app.context import Context
from tests.support.operating import MOMENT, UNKNOWN_ID, ApiClient, at_once
from tests.support.people import Tenant, rows
from tests.support.sending import error_of, pointers_of


class TestCreate:
    def test_a_new_project_is_shown_with_its_address_and_its_state(self, api: ApiClient) -> None:
        response = api.post("/v1/projects", {"name": "Shop", "description": "All that\nsells"})

        project = response.json
        assert response.status_code == 201
        assert project is not None
        environments = project.pop("environments")
        assert set(project) == {"id", "name", "description", "archived_at", "created_at", "updated_at"}
        assert (project["name"], project["description"]) == ("Shop", "All that\nsells")
        assert project["id"].startswith("prj_")
        assert MOMENT.fullmatch(project["created_at"])
        assert project["created_at"] == project["updated_at"]
        assert response.headers["Location"] == f"/v1/projects/{project['id']}"
        read = api.get(response.headers["Location"])
        assert read.json == project
        assert read.headers["ETag"] == response.headers["ETag"]
        assert environments == api.all_of(f"/v1/projects/{project['id']}/environments")

    def test_a_new_project_has_three_environments_which_are_listed_in_their_order(self, api: ApiClient) -> None:
        project = api.made("/v1/projects", {"name": "Shop"})
        path = f"/v1/projects/{project['id']}/environments"
        api.made(path, {"name": "qa"})

        for limit in (1, 2, 50):
            names = [each["name"] for each in api.all_of(path, limit=limit)]
            assert names == ["production", "staging", "development", "qa"]

    def test_a_name_is_taken_once_per_workspace(self, api: ApiClient, bob: ApiClient, stranger: ApiClient) -> None:
        api.made("/v1/projects", {"name": "Shop"})

        refused = bob.post("/v1/projects", {"name": "Shop"})

        assert refused.status_code == 409
        assert error_of(refused)["code"] == "conflict"
        assert "Shop" in error_of(refused)["message"]
        assert pointers_of(refused) == {"/name"}
        stranger.made("/v1/projects", {"name": "Shop"})

    def test_a_refused_project_leaves_nothing_behind(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        api.post("/v1/projects", {"name": "shop"})

        counted = "SELECT count(*) FROM {} WHERE workspace_id = :id"
        assert rows(context, counted.format("environments"), id=alice.workspace_row) == [(1,)]
        assert rows(context, counted.format("audit_entries"), id=alice.workspace_row) == [(0,)]

    def test_two_spellings_of_one_name_are_one_name(self, api: ApiClient) -> None:
        composed = api.made("/v1/projects", {"name": "Caf\u00e9"})

        refused = api.post("/v1/projects", {"name": "Cafe\u0301"})

        assert composed["name"] == "Caf\u00e9"
        assert refused.status_code == 409

    def test_of_many_that_ask_for_one_name_at_once_one_gets_it(self, api: ApiClient, bob: ApiClient) -> None:
        calls = [partial(each.post, "/v1/projects", {"name": "Raced"}) for each in (api, bob) * 4]

        statuses = [response.status_code for response in at_once(calls)]

        assert sorted(statuses) == [201] + [409] * 7
        assert [each["name"] for each in api.all_of("/v1/projects")].count("Raced") == 1


class TestList:
    def test_the_newest_comes_first_and_strangers_do_not_come_at_all(self, api: ApiClient, stranger: ApiClient) -> None:
        first, second = (api.made("/v1/projects", {"name": name})["id"] for name in ("First", "Second"))
        theirs = stranger.made("/v1/projects", {"name": "Theirs"})["id"]

        listed = [project["id"] for project in api.all_of("/v1/projects")]

        assert listed[:2] == [second, first]
        assert theirs not in listed


class TestChange:
    def test_only_what_is_sent_changes(self, api: ApiClient) -> None:
        project = api.made("/v1/projects", {"name": "Shop", "description": "Old"})

        changed = api.patch(f"/v1/projects/{project['id']}", {"description": ""}).json

        assert changed is not None
        del project["environments"]
        assert changed | {"updated_at": 0} == project | {"description": "", "updated_at": 0}
        assert changed["updated_at"] > project["updated_at"]

    def test_what_changes_nothing_leaves_the_object_as_it_was(self, api: ApiClient, alice: Tenant) -> None:
        path = f"/v1/projects/{alice.project_id}"
        before = api.get(path)

        for nothing in ({}, {"name": "shop"}, {"description": ""}):
            after = api.patch(path, nothing)
            assert (after.status_code, after.json) == (200, before.json)
            assert after.headers["ETag"] == before.headers["ETag"]

    def test_a_name_of_another_project_is_refused(self, api: ApiClient, alice: Tenant) -> None:
        other = api.made("/v1/projects", {"name": "Other"})

        refused = api.patch(f"/v1/projects/{other['id']}", {"name": "shop"})

        assert refused.status_code == 409
        assert (api.get(f"/v1/projects/{other['id']}").json or {})["name"] == "Other"


class TestArchive:
    def test_an_archived_project_is_gone_with_all_below_it(self, api: ApiClient, alice: Tenant) -> None:
        paths = [
            f"/v1/projects/{alice.project_id}",
            f"/v1/projects/{alice.project_id}/environments",
            f"/v1/environments/{alice.environment_id}",
            f"/v1/environments/{alice.environment_id}/sources",
            f"/v1/sources/{alice.source_id}",
            f"/v1/sources/{alice.source_id}/keys",
            f"/v1/keys/{alice.key_id}",
        ]
        assert [api.get(path).status_code for path in paths] == [200] * 7

        response = api.delete(paths[0])

        assert (response.status_code, response.data) == (204, b"")
        assert "Content-Type" not in response.headers
        assert [api.get(path).status_code for path in paths] == [404] * 7
        assert api.all_of("/v1/projects") == []
        assert api.all_of("/v1/sources") == []
        assert api.delete(paths[0]).status_code == 404

    def test_nothing_can_be_made_or_changed_below_an_archived_project(self, api: ApiClient, alice: Tenant) -> None:
        api.delete(f"/v1/projects/{alice.project_id}")

        source = {"name": "New", "type": "backend"}
        refused = [
            api.post(f"/v1/projects/{alice.project_id}/environments", {"name": "new"}),
            api.post(f"/v1/environments/{alice.environment_id}/sources", source),
            api.post(f"/v1/sources/{alice.source_id}/keys", {}),
            api.post(f"/v1/sources/{alice.source_id}/enable"),
            api.post(f"/v1/keys/{alice.key_id}/revoke"),
            api.patch(f"/v1/keys/{alice.key_id}", {"label": "new"}),
            api.patch(f"/v1/projects/{alice.project_id}", {"name": "new"}),
        ]

        assert [each.status_code for each in refused] == [404] * 7

    def test_its_name_is_free_again(self, api: ApiClient, alice: Tenant) -> None:
        api.delete(f"/v1/projects/{alice.project_id}")

        assert api.made("/v1/projects", {"name": "shop"})["id"] != alice.project_id


def test_an_unknown_project_is_not_found(api: ApiClient) -> None:
    for name in (f"prj_{UNKNOWN_ID}", "%00", "a" * 10_000, "%F0%9F%92%A9", "%FF%FE", "..%2f..", "é", "'; --"):
        assert api.get(f"/v1/projects/{name}").status_code == 404
        assert api.patch(f"/v1/projects/{name}", {"name": "x"}).status_code == 404
        assert api.delete(f"/v1/projects/{name}").status_code == 404
