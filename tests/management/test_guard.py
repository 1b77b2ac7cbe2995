"""Which credential opens the management API, and for how long."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from argon2 import PasswordHasher
from flask import Flask
from flask.testing import FlaskClient

from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from app.factory import create_app
from app.management.common.operators import Role
from app.management.tokens.domain import NewToken
from tests.support.databases import SECRET_KEY, close
from tests.support.operating import ApiClient, api_with
from tests.support.people import Tenant, execute, rows
from tests.support.sending import error_of, pointers_of

PATH = "/v1/projects"


def _asked_with(client: FlaskClient, authorization: str | None) -> tuple[int, str]:
    headers = {} if authorization is None else {"Authorization": authorization}
    response = client.get(PATH, headers=headers)
    if response.status_code == 200:
        return 200, ""
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="lariba"'
    assert error_of(response)["code"] == "invalid_management_token"
    return response.status_code, error_of(response)["message"]


def test_a_token_opens_it_and_the_scheme_may_be_written_in_any_case(client: FlaskClient, alice: Tenant) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert _asked_with(client, f"{scheme} {alice.token}") == (200, "")


def test_whatever_is_wrong_with_a_token_is_refused_with_one_message(
    client: FlaskClient, context: Context, tenant: Callable[[], Tenant], alice: Tenant
) -> None:
    never_issued = context.credentials.mint("mt")[1]
    foreign = Credentials(("another secret that is long enough to be taken",), argon2_runs_max=1).mint("mt")[1]
    expired, revoked = tenant(), tenant()
    execute(
        context,
        "UPDATE management_tokens SET expires_at = now() WHERE workspace_id = :id",
        id=expired.workspace_row,
    )
    execute(
        context,
        "UPDATE management_tokens SET revoked_at = now() WHERE workspace_id = :id",
        id=revoked.workspace_row,
    )
    sent = [None, "", "Bearer", "Bearer ", alice.token, f"Basic {alice.token}", f"Bearer {alice.token}x"]
    sent += [f"Bearer {alice.token[:-1]}", f"Bearer {alice.token} {alice.token}", f"Bearer {'x' * 100_000}"]
    sent += [f"Bearer {wrong}" for wrong in (never_issued, foreign, expired.token, revoked.token, "lrb_mt_é")]

    refused = {_asked_with(client, each) for each in sent}

    assert len(refused) == 1
    assert refused.pop()[0] == 401


def test_a_source_key_is_refused_with_the_kind_of_credential_that_it_takes(client: FlaskClient, alice: Tenant) -> None:
    status, message = _asked_with(client, f"Bearer {alice.key}")

    assert status == 401
    assert "source key" in message
    assert "lrb_mt_" in message


def test_a_revoked_token_is_refused_at_once_though_it_was_just_used(
    client: FlaskClient, context: Context, alice: Tenant
) -> None:
    assert _asked_with(client, f"Bearer {alice.token}")[0] == 200

    execute(context, "UPDATE management_tokens SET revoked_at = now() WHERE workspace_id = :id", id=alice.workspace_row)

    assert _asked_with(client, f"Bearer {alice.token}")[0] == 401


def test_a_token_is_refused_from_its_last_moment_on(client: FlaskClient, context: Context, alice: Tenant) -> None:
    statement = "UPDATE management_tokens SET expires_at = :at WHERE workspace_id = :id"

    execute(context, statement, at=datetime.now(UTC) + timedelta(hours=1), id=alice.workspace_row)
    assert _asked_with(client, f"Bearer {alice.token}")[0] == 200

    execute(context, statement, at=datetime.now(UTC), id=alice.workspace_row)
    assert _asked_with(client, f"Bearer {alice.token}")[0] == 401


def test_a_suspended_workspace_may_still_be_managed(client: FlaskClient, context: Context, alice: Tenant) -> None:
    execute(context, "UPDATE workspaces SET status = 'suspended' WHERE id = :id", id=alice.workspace_row)

    assert _asked_with(client, f"Bearer {alice.token}")[0] == 200


def test_the_token_is_asked_for_before_anything_else_is_said(client: FlaskClient) -> None:
    for path in (f"{PATH}?x=1", f"{PATH}/prj_0", "/v1/sources?cursor=forged"):
        assert client.get(path).status_code == 401
    response = client.post(PATH, data=b"[" * 1_000, content_type="text/plain")
    assert response.status_code == 401


def test_the_role_is_asked_for_before_the_query_and_the_query_before_the_body(
    app: Flask, context: Context, api: ApiClient, alice: Tenant
) -> None:
    """A caller learns nothing of an operation that is closed to it, nor is its body read for a query that is wrong."""
    auditor = api_with(app, context, alice, NewToken(role=Role.AUDITOR))

    closed = auditor.post(f"{PATH}?x=1", {"y": 1})
    open_to = api.post(f"{PATH}?x=1", {"y": 1})

    assert (closed.status_code, error_of(closed)["code"]) == (403, "insufficient_scope")
    assert (open_to.status_code, pointers_of(open_to)) == (422, {"/x"})


def test_options_needs_no_token_and_says_what_the_path_takes(client: FlaskClient) -> None:
    response = client.options(PATH)

    assert response.status_code == 204
    assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}
    assert response.data == b""


def test_head_is_get_without_the_body(api: ApiClient, client: FlaskClient) -> None:
    assert api.call("HEAD", PATH).data == b""
    assert api.call("HEAD", PATH).headers["Content-Length"] == api.get(PATH).headers["Content-Length"]
    assert client.head(PATH).status_code == 401


def test_another_method_is_405_and_says_which_are_allowed(api: ApiClient) -> None:
    response = api.call("PUT", PATH, {"name": "x"})

    assert response.status_code == 405
    assert error_of(response)["code"] == "method_not_allowed"
    assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}


@pytest.mark.parametrize("path", ["/v1/projects/", "/v1//projects", "//v1/projects", "/v1/project", "/v1"])
def test_an_address_that_is_nearly_right_is_404_and_no_redirect(api: ApiClient, path: str) -> None:
    response = api.get(path)

    assert response.status_code == 404
    assert error_of(response)["code"] == "not_found"


def test_no_answer_may_be_kept_by_a_cache(api: ApiClient, client: FlaskClient) -> None:
    assert api.get(PATH).headers["Cache-Control"] == "no-store"
    assert client.get(PATH).headers["Cache-Control"] == "no-store"


def test_every_path_of_the_control_plane_has_the_guard(app: Flask) -> None:
    unguarded = {
        str(rule)
        for rule in app.url_map.iter_rules()
        if getattr(app.view_functions[rule.endpoint], "guard", None) != "managementToken"
    }

    assert {path for path in unguarded if path.startswith("/v1/")} == {
        "/v1/events/ingest",
        "/v1/events/ingest/batch",
        "/v1/events/ingest/<path:event_id>",
    }


def test_a_hash_with_old_parameters_is_replaced_when_the_token_is_used(settings: Settings, alice: Tenant) -> None:
    stronger = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
    app = create_app(settings, credentials=Credentials((SECRET_KEY,), argon2_runs_max=1, hasher=stronger))
    context = app.extensions[EXTENSION]
    assert isinstance(context, Context)

    def stored() -> str:
        found = rows(context, "SELECT secret_hash FROM management_tokens WHERE public_id = :id", id=alice.token_id)
        return str(found[0].secret_hash)

    before = stored()

    assert _asked_with(app.test_client(), f"Bearer {alice.token}")[0] == 200

    assert stored() != before
    assert "t=2" in stored()
    close(context.database)
