"""A POST that is sent again with its Idempotency-Key changes nothing more, whatever happened to its first answer."""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psycopg
import pytest
from flask import Flask
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import text
from werkzeug.test import TestResponse

from app.config import Settings
from app.context import Context
from app.errors import BadRequest
from app.idempotency.header import read_idempotency_key
from app.maintenance.purge import purge_expired_requests
from app.management.common.authentication import authenticate
from app.management.common.mutations import mutation
from app.management.common.operators import IdempotentRequest, Role
from app.management.projects.domain import NewProject, create_project
from app.management.tokens.domain import NewToken
from tests.support.examples import examples
from tests.support.live import live_server
from tests.support.operating import ApiClient, api_of, api_with, at_once
from tests.support.people import Tenant, execute, make_tenant, rows
from tests.support.sending import error_of
from tests.support.servers import OUR_LOCKS
from tests.support.waiting import wait_until

PATH = "/v1/projects"


def _with_key(api: ApiClient, path: str, body: Any = None, *, key: str = "k", **more: Any) -> TestResponse:
    return api.post(path, body, headers={"Idempotency-Key": key}, **more)


def _claims(context: Context, tenant: Tenant) -> int:
    return len(rows(context, "SELECT 1 FROM management_requests WHERE workspace_id = :id", id=tenant.workspace_row))


def _projects(api: ApiClient) -> list[str]:
    return [each["name"] for each in api.all_of(PATH)]


@pytest.fixture(scope="module", name="enable")
def _enable(app: Flask, context: Context) -> Callable[[str], int]:
    """The status of a harmless POST with an Idempotency-Key."""
    tenant = make_tenant(context)
    path = f"/v1/sources/{tenant.source_id}/enable"
    return lambda key: _with_key(api_of(app, tenant), path, key=key).status_code


class TestCreating:
    def test_again_makes_nothing_more_and_is_answered_as_the_first_time(self, api: ApiClient) -> None:
        first = _with_key(api, PATH, {"name": "Shop"})
        again = _with_key(api, PATH, {"name": "Shop"})

        assert (first.status_code, again.status_code) == (201, 201)
        assert again.json == first.json
        assert again.headers["Location"] == first.headers["Location"] == f"{PATH}/{(first.json or {})['id']}"
        assert again.headers["ETag"] == first.headers["ETag"]
        assert "Idempotent-Replayed" not in first.headers
        assert again.headers["Idempotent-Replayed"] == "true"
        assert _projects(api) == ["Shop", "shop"]

    def test_of_any_kind_names_where_it_is(self, api: ApiClient, alice: Tenant) -> None:
        for path, body in (
            (f"{PATH}/{alice.project_id}/environments", {"name": "qa"}),
            (f"/v1/environments/{alice.environment_id}/sources", {"name": "x", "type": "erp"}),
        ):
            first, again = (_with_key(api, path, body, key=path[:5] + body["name"]) for _ in range(2))
            assert (again.status_code, again.json) == (201, first.json)
            assert again.headers["Location"] == first.headers["Location"]
            assert (api.get(again.headers["Location"]).json or {})["id"] == (first.json or {})["id"]

    def test_shows_the_object_as_it_is_now(self, api: ApiClient) -> None:
        made = _with_key(api, PATH, {"name": "Shop"})
        changed = api.patch(made.headers["Location"], {"name": "Store"})

        again = _with_key(api, PATH, {"name": "Shop"})

        assert (again.json or {})["name"] == "Store"
        assert again.headers["ETag"] == changed.headers["ETag"]

    def test_of_something_archived_since_says_so(self, api: ApiClient) -> None:
        made = _with_key(api, PATH, {"name": "Shop"})
        api.delete(made.headers["Location"])

        refused = _with_key(api, PATH, {"name": "Shop"})

        assert refused.status_code == 409
        assert (made.json or {})["id"] in error_of(refused)["message"]
        assert _projects(api) == ["shop"]

    def test_twenty_at_once_make_one(self, app: Flask, api: ApiClient, alice: Tenant) -> None:
        def create() -> tuple[int, str]:
            response = _with_key(api_of(app, alice), PATH, {"name": "Shop"})
            return response.status_code, response.headers["Location"]

        assert len(set(at_once([create] * 20))) == 1
        assert _projects(api) == ["Shop", "shop"]


class TestContent:
    @pytest.mark.parametrize(
        "sent",
        [
            b'{"name":"Shop","description":"All"}',
            b' {"description" : "All", "name":"Sh\\u006fp"}\n',
        ],
    )
    def test_is_the_same_whatever_its_order_and_white_space(self, api: ApiClient, sent: bytes) -> None:
        first = _with_key(api, PATH, {"name": "Shop", "description": "All"})

        again = _with_key(api, PATH, data=sent, content_type="application/json")

        assert again.json == first.json
        assert again.headers["Idempotent-Replayed"] == "true"

    @pytest.mark.parametrize("body", [{"name": "Store"}, {"name": "Shop", "description": ""}])
    def test_that_differs_is_refused(self, api: ApiClient, body: dict[str, str]) -> None:
        _with_key(api, PATH, {"name": "Shop"})

        refused = _with_key(api, PATH, body)

        assert refused.status_code == 422
        assert error_of(refused)["code"] == "idempotency_key_reused"
        assert _projects(api) == ["Shop", "shop"]

    def test_for_another_address_is_other_content(self, api: ApiClient, alice: Tenant) -> None:
        source = f"/v1/sources/{alice.source_id}"
        assert _with_key(api, f"{source}/disable").status_code == 200

        assert error_of(_with_key(api, f"{source}/enable"))["code"] == "idempotency_key_reused"
        assert (api.get(source).json or {})["status"] == "disabled"

    def test_under_another_tokens_same_key_is_its_own(
        self, api: ApiClient, bob: ApiClient, stranger: ApiClient
    ) -> None:
        for each, name in ((api, "a"), (bob, "b"), (stranger, "c")):
            made = _with_key(each, PATH, {"name": name})
            assert made.status_code == 201
            assert "Idempotent-Replayed" not in made.headers

    def test_a_quoted_key_is_its_bare_content(self, api: ApiClient) -> None:
        _with_key(api, PATH, {"name": "Shop"}, key="a-1")

        assert _with_key(api, PATH, {"name": "Shop"}, key='"a-1"').headers["Idempotent-Replayed"] == "true"


class TestCredential:
    def test_is_not_shown_again_and_named(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        for path, body in (
            (f"/v1/sources/{alice.source_id}/keys", {"label": "x"}),
            ("/v1/tokens", {"role": "auditor"}),
        ):
            made = _with_key(api, path, body, key=path[-4:]).json or {}

            refused = _with_key(api, path, body, key=path[-4:])

            assert refused.status_code == 409
            assert error_of(refused)["code"] == "credential_already_shown"
            assert made["id"] in error_of(refused)["message"]
            assert (made.get("key") or made["token"]) not in refused.text
        assert len(api.all_of(f"/v1/sources/{alice.source_id}/keys")) == 2
        assert len(api.all_of("/v1/tokens")) == 2

    def test_twenty_at_once_issue_one(self, app: Flask, api: ApiClient, alice: Tenant) -> None:
        path = f"/v1/sources/{alice.source_id}/keys"

        statuses = at_once([lambda: _with_key(api_of(app, alice), path).status_code] * 20)

        assert sorted(statuses) == [201] + [409] * 19
        assert len(api.all_of(path)) == 2


class TestAction:
    def test_again_does_not_act_again_after_another_operator_undid_it(
        self, api: ApiClient, bob: ApiClient, alice: Tenant
    ) -> None:
        source = f"/v1/sources/{alice.source_id}"
        assert (_with_key(api, f"{source}/disable").json or {})["status"] == "disabled"
        bob.post(f"{source}/enable")

        again = _with_key(api, f"{source}/disable")

        assert (again.status_code, (again.json or {})["status"]) == (200, "enabled")
        assert again.headers["Idempotent-Replayed"] == "true"
        assert (api.get(source).json or {})["status"] == "enabled"

    def test_again_shows_a_revoked_key(self, api: ApiClient, alice: Tenant) -> None:
        first, again = (_with_key(api, f"/v1/keys/{alice.key_id}/revoke") for _ in range(2))

        assert first.json == again.json
        assert again.headers["Idempotent-Replayed"] == "true"

    def test_that_did_nothing_the_first_time_does_nothing_later(
        self, api: ApiClient, bob: ApiClient, alice: Tenant
    ) -> None:
        source = f"/v1/sources/{alice.source_id}"
        _with_key(api, f"{source}/enable")
        bob.post(f"{source}/disable")

        assert (_with_key(api, f"{source}/enable").json or {})["status"] == "disabled"


class TestClaim:
    def test_a_refused_request_leaves_none(self, api: ApiClient, context: Context, alice: Tenant, app: Flask) -> None:
        auditor = api_with(app, context, alice, NewToken(role=Role.AUDITOR))
        refused = [
            _with_key(api, PATH, {"name": ""}),
            _with_key(api, PATH, {"name": "shop"}),
            _with_key(api, PATH, data=b"{", content_type="application/json"),
            _with_key(api, PATH, data=b'{"name": "\\ud800"}', content_type="application/json"),
            _with_key(api, PATH, data=b'{"name": "x"}', content_type="text/plain"),
            _with_key(api, "/v1/sources/src_nobody/keys"),
            _with_key(api, f"/v1/keys/{alice.key_id}/revoke", data=b'{"x": 1}', content_type="application/json"),
            _with_key(auditor, PATH, {"name": "x"}),
        ]

        assert [each.status_code for each in refused] == [422, 409, 400, 422, 415, 404, 422, 403]
        assert _claims(context, alice) == 0
        assert _with_key(api, PATH, {"name": "Shop"}).status_code == 201

    def test_a_lost_connection_leaves_none(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        operator = authenticate(f"Bearer {alice.token}", context.credentials, context.database)
        named = IdempotentRequest(key="k", fingerprint=b"x" * 32, ttl_seconds=60)
        with pytest.raises(Exception), mutation(context.database, _asking(operator, named)) as session:  # noqa: B017, PT011
            session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

        assert _claims(context, alice) == 0
        assert _with_key(api, PATH, {"name": "Shop"}).status_code == 201

    def test_a_killed_server_leaves_none(
        self, settings: Settings, checkout: Path, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        """It has claimed the key and waits for the table in the moment in which it is killed."""
        headers = {"Authorization": f"Bearer {alice.token}", "Idempotency-Key": "k", "Content-Type": "application/json"}
        body = json.dumps({"name": "Shop"}).encode()
        with live_server(settings, checkout) as server, ThreadPoolExecutor(1) as pool:
            assert server.request("GET", PATH, headers=headers).status == 200
            with psycopg.connect(settings.admin_database_url) as owner:
                owner.execute("LOCK TABLE projects IN SHARE MODE")

                def send() -> None:
                    with contextlib.suppress(OSError, HTTPException):
                        server.request("POST", PATH, body, headers)

                pending = pool.submit(send)
                wait_until(lambda: rows(context, _WAITING_FOR_TABLE))
                os.killpg(server.process.pid, signal.SIGKILL)
                pending.result(timeout=30)

        wait_until(lambda: not rows(context, _WEB_AT_WORK))
        assert _claims(context, alice) == 0
        assert "Idempotent-Replayed" not in _with_key(api, PATH, {"name": "Shop"}).headers
        assert _projects(api) == ["Shop", "shop"]

    def test_while_one_is_being_carried_out_another_is_refused_as_in_progress(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        operator = authenticate(f"Bearer {alice.token}", context.credentials, context.database)
        held, release = threading.Event(), threading.Event()

        def hold() -> None:
            named = IdempotentRequest(key="k", fingerprint=b"x" * 32, ttl_seconds=60)
            with mutation(context.database, _asking(operator, named)):
                held.set()
                assert release.wait(10)
                raise InterruptedError

        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(hold)
            assert held.wait(10)
            refused = _with_key(api, PATH, {"name": "Shop"})
            release.set()
            assert isinstance(pending.exception(timeout=10), InterruptedError)

        assert refused.status_code == 409
        assert error_of(refused)["code"] == "idempotency_in_progress"
        assert refused.headers["Retry-After"] == "1"
        assert _with_key(api, PATH, {"name": "Shop"}).status_code == 201

    def test_an_expired_one_is_overwritten(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        path = f"/v1/sources/{alice.source_id}/keys"
        first = _with_key(api, path).json or {}
        execute(
            context,
            "UPDATE management_requests SET expires_at = now() WHERE workspace_id = :id",
            id=alice.workspace_row,
        )

        second = _with_key(api, path, {"label": "other content"}).json or {}

        assert first["id"] != second["id"]
        assert second["id"] in error_of(_with_key(api, path, {"label": "other content"}))["message"]
        assert _claims(context, alice) == 1

    def test_an_expired_one_is_purged_and_a_living_one_is_not(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        for n in range(3):
            _with_key(api, PATH, {"name": f"p{n}"}, key=f"k{n}")
        ended = "UPDATE management_requests SET expires_at = now() WHERE workspace_id = :id AND idempotency_key <> 'k0'"
        execute(context, ended, id=alice.workspace_row)

        assert (
            purge_expired_requests(context.database, now=datetime.now(UTC) + timedelta(seconds=1), batch_rows=1).rows
            >= 2
        )

        assert _claims(context, alice) == 1
        assert _with_key(api, PATH, {"name": "p0"}, key="k0").headers["Idempotent-Replayed"] == "true"

    def test_the_shell_has_none(self, context: Context, alice: Tenant) -> None:
        operator = authenticate(f"Bearer {alice.token}", context.credentials, context.database)
        create_project(context.database, operator, NewProject(name="Shop"))

        assert _claims(context, alice) == 0


class TestHeader:
    @pytest.mark.parametrize("key", ["", " ", "a b", "a,b", "ä", "x" * 256, '"', '"a', '"a"b', '""', "a\x7f", "\t"])
    def test_that_is_no_key_is_refused(self, api: ApiClient, key: str) -> None:
        refused = _with_key(api, PATH, {"name": "Shop"}, key=key)

        assert refused.status_code == 400
        assert error_of(refused)["code"] == "bad_request"
        assert _projects(api) == ["shop"]

    @hypothesis_settings(max_examples=examples(60), deadline=None)
    @given(key=st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=300))
    def test_is_a_key_or_a_400_and_nothing_else(self, enable: Callable[[str], int], key: str) -> None:
        try:
            read_idempotency_key(key)
            expected = 200
        except BadRequest:
            expected = 400

        assert enable(key) == expected

    @pytest.mark.parametrize("key", ["k", "no key at all, really"])
    def test_means_nothing_but_to_a_post(self, api: ApiClient, context: Context, alice: Tenant, key: str) -> None:
        path, headers = f"{PATH}/{alice.project_id}", {"Idempotency-Key": key, "If-Match": "*"}

        for name in ("a", "b"):
            assert api.patch(path, {"name": name}, headers=headers).status_code == 200
        assert (api.call("GET", path, headers=headers).json or {})["name"] == "b"
        assert api.delete(path, headers=headers).status_code == 204
        assert _claims(context, alice) == 0


_WAITING_FOR_TABLE = f"SELECT 1 FROM {OUR_LOCKS} NOT granted AND relation = 'projects'::regclass"
# Of the server that was killed: PostgreSQL finds out when it next speaks to it.
_WEB_AT_WORK = """
    SELECT 1 FROM pg_stat_activity
    WHERE application_name = 'lariba-web' AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
        AND datname = current_database()
"""


def _asking(operator: Any, request: IdempotentRequest) -> Any:
    return replace(operator, request=request)
