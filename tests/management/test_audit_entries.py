"""Audit entries: every change, its actor and request; never a secret, and nothing that did not happen."""

from typing import Any

from app.context import Context
from app.management.common.operators import SHELL, Role
from app.management.workspace.domain import create_workspace, issue_workspace_token, set_workspace_status
from app.models import WorkspaceStatus
from tests.support.operating import ApiClient
from tests.support.people import Tenant, rows


def _entries(context: Context, workspace_row: int) -> list[Any]:
    statement = (
        "SELECT actor, action, object_id, after, request_id FROM audit_entries WHERE workspace_id = :id ORDER BY id"
    )
    return rows(context, statement, id=workspace_row)


def test_a_whole_life_is_written_down_in_order(api: ApiClient, context: Context, alice: Tenant) -> None:
    project = api.made("/v1/projects", {"name": "Shop"})["id"]
    environment = api.all_of(f"/v1/projects/{project}/environments")[0]["id"]
    source = api.made(f"/v1/environments/{environment}/sources", {"name": "ERP", "type": "erp"})["id"]
    key = api.made(f"/v1/sources/{source}/keys", {"label": "one"})["id"]
    api.patch(f"/v1/keys/{key}", {"label": "two", "expires_at": "2099-01-31T12:00:00+02:00"})
    api.post(f"/v1/keys/{key}/revoke")
    api.post(f"/v1/sources/{source}/disable")
    api.post(f"/v1/sources/{source}/enable")
    api.patch(f"/v1/sources/{source}", {"type": "worker"})
    api.delete(f"/v1/sources/{source}")
    api.patch(f"/v1/environments/{environment}", {"name": "qa"})
    api.delete(f"/v1/environments/{environment}")
    api.patch(f"/v1/projects/{project}", {"description": "Closed"})
    api.delete(f"/v1/projects/{project}")

    entries = _entries(context, alice.workspace_row)

    assert [(each.action, each.object_id) for each in entries if each.action != "environment.create"] == [
        ("project.create", project),
        ("source.create", source),
        ("source_key.issue", key),
        ("source_key.update", key),
        ("source_key.revoke", key),
        ("source.disable", source),
        ("source.enable", source),
        ("source.update", source),
        ("source.archive", source),
        ("environment.update", environment),
        ("environment.archive", environment),
        ("project.update", project),
        ("project.archive", project),
    ]
    assert sum(each.action == "environment.create" for each in entries) == 3
    assert {each.actor for each in entries} == {alice.token_id}
    after = {each.action: each.after for each in entries}
    assert after["project.create"] == {"name": "Shop", "description": ""}
    assert after["environment.create"]["description"] == ""
    assert after["source_key.update"] == {"label": "two", "expires_at": "2099-01-31T10:00:00Z"}
    assert after["source.update"] == {"type": "worker"}
    assert after["environment.update"] == {"name": "qa"}


def test_an_entry_names_the_request_that_made_it(api: ApiClient, context: Context, alice: Tenant) -> None:
    api.call("PATCH", f"/v1/keys/{alice.key_id}", {"label": "x"}, headers={"X-Request-ID": "ticket-4711"})

    assert [each.request_id for each in _entries(context, alice.workspace_row)] == ["ticket-4711"]


def test_the_actor_is_the_token_of_each_operator(
    api: ApiClient, bob: ApiClient, context: Context, alice: Tenant
) -> None:
    api.patch(f"/v1/keys/{alice.key_id}", {"label": "mine"})
    bob.patch(f"/v1/keys/{alice.key_id}", {"label": "his"})

    issued, mine, his = _entries(context, alice.workspace_row)

    assert issued.action == "management_token.issue"
    assert mine.actor == alice.token_id
    assert his.actor == issued.object_id


def test_what_was_refused_or_changed_nothing_leaves_no_entry(api: ApiClient, context: Context, alice: Tenant) -> None:
    api.post("/v1/projects", {"name": "shop"})
    api.post("/v1/projects", {"name": ""})
    api.patch(f"/v1/projects/{alice.project_id}", {"name": "shop", "description": ""})
    api.patch(f"/v1/projects/{alice.project_id}", {"name": "x"}, headers={"If-Match": '"other"'})
    api.post(f"/v1/sources/{alice.source_id}/enable")
    api.get("/v1/projects")

    assert _entries(context, alice.workspace_row) == []


def test_repeating_a_revocation_leaves_one_entry(api: ApiClient, context: Context, alice: Tenant) -> None:
    for _ in range(3):
        api.post(f"/v1/keys/{alice.key_id}/revoke")

    assert [each.action for each in _entries(context, alice.workspace_row)] == ["source_key.revoke"]


def test_what_the_shell_does_is_written_down_as_the_shells(context: Context) -> None:
    workspace, token = create_workspace(context.database, context.credentials, "Alice's")
    other = issue_workspace_token(context.database, context.credentials, workspace.id, "second", Role.OWNER)
    for status in (WorkspaceStatus.SUSPENDED, WorkspaceStatus.SUSPENDED, WorkspaceStatus.ACTIVE):
        set_workspace_status(context.database, workspace.id, status)

    row = rows(context, "SELECT id FROM workspaces WHERE public_id = :id", id=workspace.id)[0].id
    entries = _entries(context, row)

    everything = {"role": "owner", "project_ids": None, "expires_at": None}
    assert [(each.action, each.object_id, each.after) for each in entries] == [
        ("workspace.create", workspace.id, {"name": "Alice's"}),
        ("management_token.issue", token.id, {"label": "first"} | everything),
        ("management_token.issue", other.id, {"label": "second"} | everything),
        ("workspace.suspend", workspace.id, {"status": "suspended"}),
        ("workspace.resume", workspace.id, {"status": "active"}),
    ]
    assert {(each.actor, each.request_id) for each in entries} == {(SHELL, None)}
