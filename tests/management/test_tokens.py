"""Management tokens: none grants more than it has, and a revoked one is worth nothing from that moment on."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from app.context import Context
from app.database.advisory_locks import exclude_token
from app.errors import InvalidManagementToken
from app.identifiers import new_public_id
from app.management.common.authentication import authenticate
from app.management.common.etags import Target
from app.management.common.mutations import mutation
from app.management.common.operators import Operator, Role
from app.management.common.token_validity import hold_validity
from app.management.projects.domain import NewProject, create_project
from app.management.tokens.domain import NewToken, issue_token, revoke_token
from app.models import Project
from tests.support.live import LiveServer
from tests.support.operating import MOMENT, UNKNOWN_ID, ApiClient, api_with, at_once
from tests.support.people import Tenant, execute, rows
from tests.support.sending import PATH as INGEST
from tests.support.sending import error_of, event_for, pointers_of
from tests.support.servers import OUR_LOCKS
from tests.support.waiting import wait_until

PATH = "/v1/tokens"
Issue = Callable[..., ApiClient]


@pytest.fixture(name="issued")
def _issued(app: Flask, context: Context, alice: Tenant) -> Issue:
    """A client with a token of Alice's workspace."""
    return lambda role, **more: api_with(app, context, alice, NewToken(role=role, **more))


def _operator(context: Context, tenant: Tenant) -> Operator:
    return authenticate(f"Bearer {tenant.token}", context.credentials, context.database)


def _id_of(api: ApiClient) -> str:
    return f"tok_{api.token.split('_')[2]}"


def _in(hours: float) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).isoformat()


class TestIssuing:
    def test_shows_the_token_this_once(self, api: ApiClient, alice: Tenant) -> None:
        body = {"label": "CI", "role": "developer", "project_ids": [alice.project_id], "expires_at": _in(1)}
        response = api.post(PATH, body)
        made = response.json or {}

        token = made.pop("token")
        assert token.startswith("lrb_mt_")
        assert response.headers["Location"] == f"{PATH}/{made['id']}"
        assert (made["label"], made["role"], made["project_ids"]) == ("CI", "developer", [alice.project_id])
        assert made["revoked_at"] is made["last_used_at"] is None
        for shown in (api.get(f"{PATH}/{made['id']}"), api.get(PATH)):
            assert token not in shown.text
            assert "secret" not in shown.text
        assert api.get(f"{PATH}/{made['id']}").json == made

    def test_opens_with_its_role_in_its_projects(self, app: Flask, api: ApiClient, alice: Tenant) -> None:
        other = api.made("/v1/projects", {"name": "other"})["id"]
        token = api.made(PATH, {"role": "developer", "project_ids": [other]})["token"]
        mine = ApiClient(app.test_client(), token)

        assert [each["id"] for each in mine.all_of("/v1/projects")] == [other]
        assert mine.get(f"/v1/projects/{alice.project_id}").status_code == 404
        assert mine.patch(f"/v1/projects/{other}", {"name": "x"}).status_code == 403

    @pytest.mark.parametrize("issuer", [Role.ADMIN, Role.OWNER])
    @pytest.mark.parametrize("role", list(Role))
    def test_never_with_a_higher_role(self, issued: Issue, issuer: Role, role: Role) -> None:
        response = issued(issuer).post(PATH, {"role": role})

        assert response.status_code == (201 if issuer.includes(role) else 403)

    def test_never_with_more_projects(self, api: ApiClient, issued: Issue, alice: Tenant) -> None:
        other = api.made("/v1/projects", {"name": "other"})["id"]
        limited = issued(Role.OWNER, project_ids=(alice.project_id,))

        for whole in ({"role": "auditor"}, {"role": "auditor", "project_ids": None}):
            refused = limited.post(PATH, whole)
            assert error_of(refused)["code"] == "insufficient_scope"
            assert "name them in project_ids" in error_of(refused)["message"]
            assert pointers_of(refused) == {"/project_ids"}
        for wider in ([other], [alice.project_id, other]):
            refused = limited.post(PATH, {"role": "auditor", "project_ids": wider})
            assert pointers_of(refused) == {f"/project_ids/{wider.index(other)}"}
        assert limited.post(PATH, {"role": "owner", "project_ids": [alice.project_id]}).status_code == 201

    def test_never_for_a_longer_time(self, issued: Issue) -> None:
        ending = issued(Role.ADMIN, expires_at=datetime.now(UTC) + timedelta(hours=1))

        for longer in ({"role": "auditor"}, {"role": "auditor", "expires_at": _in(2)}):
            assert error_of(ending.post(PATH, longer))["code"] == "insufficient_scope"
        assert ending.post(PATH, {"role": "auditor", "expires_at": _in(0.5)}).status_code == 201

    def test_for_exactly_as_long_as_its_own(self, issued: Issue) -> None:
        end = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
        until_then = {"role": "auditor", "expires_at": end.isoformat()}

        assert issued(Role.ADMIN, expires_at=end).post(PATH, until_then).status_code == 201

    def test_never_for_projects_that_are_a_strangers_archived_or_unknown(
        self, api: ApiClient, alice: Tenant, charlie: Tenant
    ) -> None:
        archived = api.made("/v1/projects", {"name": "gone"})["id"]
        api.delete(f"/v1/projects/{archived}")
        wanted = [charlie.project_id, archived, alice.project_id, f"prj_{UNKNOWN_ID}"]

        refused = api.post(PATH, {"role": "auditor", "project_ids": wanted})

        details = error_of(refused)["details"]
        assert [each["pointer"] for each in details] == ["/project_ids/0", "/project_ids/1", "/project_ids/3"]
        assert len({each["message"] for each in details}) == 1

    @pytest.mark.parametrize(
        ("body", "pointer"),
        [
            ({}, "/role"),
            ({"role": "root"}, "/role"),
            ({"role": None}, "/role"),
            ({"role": "auditor", "project_ids": []}, "/project_ids"),
            ({"role": "auditor", "project_ids": "prj_x"}, "/project_ids"),
            ({"role": "auditor", "project_ids": ["prj_x"] * 101}, "/project_ids"),
            ({"role": "auditor", "project_ids": [None]}, "/project_ids/0"),
            ({"role": "auditor", "expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
            ({"role": "auditor", "workspace_id": "ws_x"}, "/workspace_id"),
        ],
    )
    def test_refuses_what_is_wrong_by_its_place(self, api: ApiClient, body: dict[str, Any], pointer: str) -> None:
        assert pointers_of(api.post(PATH, body)) == {pointer}

    def test_takes_a_project_that_is_named_twice_once(self, api: ApiClient, alice: Tenant) -> None:
        made = api.made(PATH, {"role": "auditor", "project_ids": [alice.project_id] * 2})

        assert made["project_ids"] == [alice.project_id]

    def test_names_its_projects_in_the_order_in_which_they_were_given(self, api: ApiClient, alice: Tenant) -> None:
        newer = api.made("/v1/projects", {"name": "newer"})["id"]
        made = api.made(PATH, {"role": "auditor", "project_ids": [newer, alice.project_id]})

        read = api.get(f"{PATH}/{made['id']}").json or {}

        assert made["project_ids"] == read["project_ids"] == [newer, alice.project_id]

    def test_and_archiving_its_project_never_leave_a_token_for_an_archived_one(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        """They meet at the project's row: the second one sees what the first has done."""
        project = api.made("/v1/projects", {"name": "short"})["id"]
        body = {"role": "auditor", "project_ids": [project]}

        archived, issued = at_once([lambda: api.delete(f"/v1/projects/{project}"), lambda: api.post(PATH, body)])

        assert archived.status_code == 204
        if issued.status_code == 201:
            statement = "SELECT 1 FROM management_tokens t JOIN projects p ON p.id = ANY (t.project_ids)"
            statement += " WHERE p.public_id = :id AND t.created_at <= p.archived_at"
            assert rows(context, statement, id=project)
        else:
            assert pointers_of(issued) == {"/project_ids/0"}


class TestSeeing:
    def test_a_token_for_some_projects_sees_those_that_reach_no_further(
        self, api: ApiClient, issued: Issue, alice: Tenant
    ) -> None:
        other = api.made("/v1/projects", {"name": "other"})["id"]
        limited = issued(Role.ADMIN, project_ids=(alice.project_id,))
        peer = issued(Role.AUDITOR, project_ids=(alice.project_id,))
        wide = issued(Role.AUDITOR, project_ids=(alice.project_id, other))
        elsewhere = issued(Role.AUDITOR, project_ids=(other,))

        assert {each["id"] for each in limited.all_of(PATH)} == {_id_of(limited), _id_of(peer)}
        for hidden in (_id_of(wide), _id_of(elsewhere), alice.token_id):
            assert limited.get(f"{PATH}/{hidden}").status_code == 404
            assert limited.post(f"{PATH}/{hidden}/revoke").status_code == 404
        assert limited.post(f"{PATH}/{_id_of(peer)}/revoke").status_code == 200

    def test_a_token_outlives_its_project_and_still_names_it(
        self, api: ApiClient, issued: Issue, alice: Tenant
    ) -> None:
        limited = issued(Role.AUDITOR, project_ids=(alice.project_id,))
        api.delete(f"/v1/projects/{alice.project_id}")

        assert (api.get(f"{PATH}/{_id_of(limited)}").json or {})["project_ids"] == [alice.project_id]
        assert limited.get("/v1/workspace").status_code == 200


class TestFilters:
    _SOON = "UPDATE management_tokens SET expires_at = now() + interval '5 days' WHERE public_id = :id"

    @staticmethod
    def _ids(api: ApiClient, **query: Any) -> list[str]:
        return [each["id"] for each in api.all_of(PATH, limit=1, **query)]

    @pytest.fixture(name="each")
    def _each(self, api: ApiClient, context: Context) -> dict[str, str]:
        """A token of each state and one that ends soon; Alice's own is active."""
        made = {name: api.made(PATH, {"role": "auditor"})["id"] for name in ("endless", "soon", "expired", "revoked")}
        execute(context, self._SOON, id=made["soon"])
        over = "UPDATE management_tokens SET expires_at = now() WHERE public_id = :id"
        execute(context, over, id=made["expired"])
        execute(context, over, id=made["revoked"])
        api.post(f"{PATH}/{made['revoked']}/revoke")
        return made

    def test_active_expired_and_revoked_divide_them(self, api: ApiClient, alice: Tenant, each: dict[str, str]) -> None:
        found = {state: self._ids(api, state=state) for state in ("active", "expired", "revoked")}

        assert found == {
            "active": [each["soon"], each["endless"], alice.token_id],
            "expired": [each["expired"]],
            "revoked": [each["revoked"]],
        }
        for state, ids in found.items():
            for token_id in ids:
                assert (api.get(f"{PATH}/{token_id}").json or {})["state"] == state
        assert {token["id"]: token["state"] for token in api.all_of(PATH)} == {
            token_id: state for state, ids in found.items() for token_id in ids
        }

    def test_those_that_end_soon_can_be_found_in_time(
        self, api: ApiClient, stranger: ApiClient, issued: Issue, each: dict[str, str], alice: Tenant
    ) -> None:
        narrow = issued(Role.AUDITOR, project_ids=(alice.project_id,))

        assert self._ids(api, expires_within_days=5) == self._ids(api, expires_within_days=5, state="active")
        assert self._ids(api, expires_within_days=5) == [each["soon"]]
        assert self._ids(api, expires_within_days=4) == []
        assert self._ids(api, expires_within_days=5, state="expired") == []
        for other in (stranger, narrow):
            assert self._ids(other, expires_within_days=5) == []

    @pytest.mark.parametrize(
        ("name", "value"),
        [("state", "stale"), ("expires_within_days", "0"), ("expires_within_days", "3651"), ("role", "owner")],
    )
    def test_what_is_wrong_or_unknown_is_refused_by_name(self, api: ApiClient, name: str, value: str) -> None:
        assert pointers_of(api.get(PATH, **{name: value})) == {f"/{name}"}

    def test_a_cursor_belongs_to_its_filter(self, api: ApiClient, each: dict[str, str]) -> None:
        cursor = (api.get(PATH, limit=1, state="active").json or {})["next_cursor"]

        assert api.get(PATH, cursor=cursor, state="active").status_code == 200
        assert pointers_of(api.get(PATH, cursor=cursor)) == {"/cursor"}


class TestRevoking:
    def test_ends_it_at_once_on_all_processes(self, live: LiveServer, alice: Tenant, api: ApiClient) -> None:
        """Each of the processes has let it in before, and knows it by heart."""
        headers = {"Authorization": f"Bearer {alice.token}"}
        for _ in range(40):
            assert live.request("GET", "/v1/workspace", headers=headers).status == 200

        assert api.post(f"{PATH}/{alice.token_id}/revoke").status_code == 200

        assert {live.request("GET", "/v1/workspace", headers=headers).status for _ in range(40)} == {401}

    def test_is_for_good_and_safe_to_repeat(self, api: ApiClient, issued: Issue) -> None:
        token = _id_of(issued(Role.AUDITOR))
        first = api.post(f"{PATH}/{token}/revoke")

        assert MOMENT.fullmatch((first.json or {})["revoked_at"])
        again = api.post(f"{PATH}/{token}/revoke")
        assert (again.json, again.headers["ETag"]) == (first.json, first.headers["ETag"])

    def test_one_of_a_higher_role_takes_that_role(self, issued: Issue, alice: Tenant) -> None:
        refused = issued(Role.ADMIN).post(f"{PATH}/{alice.token_id}/revoke")

        assert error_of(refused)["code"] == "insufficient_scope"

    def test_nothing_that_the_token_had_under_way_is_done_after_it_has_answered(
        self, context: Context, bob: ApiClient, alice: Tenant
    ) -> None:
        """The change was authenticated before; it would have issued a token that no operator knows of."""
        operator = _operator(context, alice)

        assert bob.post(f"{PATH}/{alice.token_id}/revoke").status_code == 200

        with pytest.raises(InvalidManagementToken):
            create_project(context.database, operator, NewProject(name="late"))
        with pytest.raises(InvalidManagementToken):
            issue_token(context.database, context.credentials, operator, NewToken(role=Role.OWNER))

    def test_waits_for_nothing_that_a_change_of_the_token_waits_for_and_that_change_is_undone(
        self, context: Context, bob: ApiClient, alice: Tenant
    ) -> None:
        with (  # noqa: PT012 - what is raised is raised at the end of the block, which is the point
            pytest.raises(InvalidManagementToken),
            mutation(context.database, _operator(context, alice)) as session,
        ):
            session.execute(text("UPDATE source_keys SET label = 'late' WHERE id = :id"), {"id": alice.key_row})

            assert bob.post(f"{PATH}/{alice.token_id}/revoke").status_code == 200

        assert rows(context, "SELECT label FROM source_keys WHERE id = :id", id=alice.key_row) == [("",)]

    def test_waits_for_no_name_that_a_change_of_the_token_waits_for(
        self, context: Context, bob: ApiClient, alice: Tenant
    ) -> None:
        """What a change has not written yet, it writes before it takes the lock that a revocation waits for."""
        operator = _operator(context, alice)
        named = {"name": "late", "workspace_id": alice.workspace_row}

        def change() -> None:
            with mutation(context.database, operator) as session:
                session.add(Project(public_id=new_public_id("prj"), **named))

        with ThreadPoolExecutor(1) as pool:
            with context.database.transaction(alice.workspace_row) as session:
                session.add(Project(public_id=new_public_id("prj"), **named))
                session.flush()
                changed = pool.submit(change)
                wait_until(lambda: rows(context, f"SELECT 1 FROM {OUR_LOCKS} NOT granted"))

                assert bob.post(f"{PATH}/{alice.token_id}/revoke").status_code == 200
                session.rollback()
            with pytest.raises(InvalidManagementToken):
                changed.result(timeout=10)

    @pytest.mark.parametrize("caller", ["first", "last"])
    def test_asks_for_the_locks_of_two_tokens_in_one_order_whichever_of_them_revokes_the_other(
        self, context: Context, issued: Issue, alice: Tenant, caller: str
    ) -> None:
        """Else two tokens that revoke each other could wait in a circle."""
        first, last = sorted((issued(Role.OWNER), issued(Role.OWNER)), key=_id_of)
        api, other = (first, last) if caller == "first" else (last, first)
        try_last = text("SELECT pg_try_advisory_xact_lock(hashtextextended('token ' || :token, 0))")

        with ThreadPoolExecutor(1) as pool:
            with context.database.transaction(alice.workspace_row) as session:
                exclude_token(session, _id_of(first))
                revoked = pool.submit(api.post, f"{PATH}/{_id_of(other)}/revoke")
                wait_until(lambda: rows(context, f"SELECT 1 FROM {OUR_LOCKS} NOT granted"))
                is_last_free = session.execute(try_last, {"token": _id_of(last)}).scalar_one()
            assert revoked.result(timeout=10).status_code == 200

        assert is_last_free

    def test_waits_for_what_the_token_is_about_to_commit(self, context: Context, bob: ApiClient, alice: Tenant) -> None:
        held, release = threading.Event(), threading.Event()
        operator = _operator(context, alice)

        def change() -> None:
            with context.database.transaction(alice.workspace_row) as session:
                hold_validity(session, operator)
                held.set()
                assert release.wait(10)

        with ThreadPoolExecutor(2) as pool:
            changed = pool.submit(change)
            assert held.wait(10)
            revoked = pool.submit(bob.post, f"{PATH}/{alice.token_id}/revoke")
            wait_until(lambda: rows(context, f"SELECT 1 FROM {OUR_LOCKS} NOT granted"))
            assert not revoked.done()
            release.set()
            changed.result(timeout=10)
            assert revoked.result(timeout=10).status_code == 200

    def test_of_a_strangers_token_waits_for_nothing_of_the_stranger_nor_keeps_it_waiting(
        self, context: Context, stranger: ApiClient, alice: Tenant
    ) -> None:
        """Else a caller who knows an id would learn when that token is used, and could delay its commits."""
        with context.database.transaction(alice.workspace_row) as session:
            hold_validity(session, _operator(context, alice))

            assert stranger.post(f"{PATH}/{alice.token_id}/revoke").status_code == 404

    def test_a_token_may_revoke_itself_and_two_each_other(self, app: Flask, context: Context, issued: Issue) -> None:
        alone, one, other = (issued(Role.OWNER) for _ in range(3))

        assert alone.post(f"{PATH}/{_id_of(alone)}/revoke").status_code == 200
        assert alone.get("/v1/workspace").status_code == 401
        statuses = at_once(
            [
                lambda: one.post(f"{PATH}/{_id_of(other)}/revoke").status_code,
                lambda: other.post(f"{PATH}/{_id_of(one)}/revoke").status_code,
            ]
        )
        # One may find itself revoked, or be refused with a 503; never do both fail.
        assert 200 in statuses
        assert set(statuses) <= {200, 401, 503}


class TestUse:
    def _used(self, context: Context, tenant: Tenant) -> Any:
        statement = "SELECT last_used_at, updated_at FROM management_tokens WHERE public_id = :id"
        return rows(context, statement, id=tenant.token_id)[0]

    def test_is_noted_to_the_minute_without_moving_the_etag(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        assert self._used(context, alice).last_used_at is None
        shown = api.get(f"{PATH}/{alice.token_id}")
        first = self._used(context, alice)
        assert first.last_used_at is not None

        again = api.get(f"{PATH}/{alice.token_id}")

        assert self._used(context, alice) == first
        assert again.headers["ETag"] == shown.headers["ETag"]
        set_back = "UPDATE management_tokens SET last_used_at = now() - interval '61 seconds' WHERE public_id = :id"
        execute(context, set_back, id=alice.token_id)
        later = api.get(f"{PATH}/{alice.token_id}")
        assert self._used(context, alice).last_used_at > first.last_used_at
        assert later.headers["ETag"] == shown.headers["ETag"]

    def test_waits_for_no_lock(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        with context.database.transaction(alice.workspace_row) as session:
            session.execute(text("SELECT 1 FROM management_tokens FOR NO KEY UPDATE"))

            assert api.get("/v1/workspace").status_code == 200

        assert self._used(context, alice).last_used_at is None

    def test_after_its_expiry_is_refused(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        execute(context, "UPDATE management_tokens SET expires_at = now() WHERE public_id = :id", id=alice.token_id)

        assert api.get("/v1/workspace").status_code == 401
        assert self._used(context, alice).last_used_at is None

    def test_after_a_marked_expiry_is_refused_whatever_becomes_of_the_clock(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        """As the keys of sources are: say after a failover to a server whose clock is an hour behind."""
        caller = _operator(context, alice)
        marked = "expires_at = now() + interval '1 hour', expired_at = now() + interval '1 hour'"
        execute(context, f"UPDATE management_tokens SET {marked} WHERE public_id = :id", id=alice.token_id)

        assert api.get("/v1/workspace").status_code == 401
        with pytest.raises(InvalidManagementToken):
            issue_token(context.database, context.credentials, caller, NewToken(role=Role.AUDITOR))

    def test_on_ingest_is_refused_with_the_kind_of_credential_that_it_takes(
        self, app: Flask, api: ApiClient, alice: Tenant
    ) -> None:
        headers = {"X-API-Key": alice.token, "Content-Type": "application/json"}
        for path in (INGEST, f"{INGEST}/batch"):
            refused = app.test_client().post(path, data=json.dumps(event_for(alice)), headers=headers)
            assert refused.status_code == 401
            assert error_of(refused)["code"] == "invalid_source_key"
            assert "source key" in error_of(refused)["message"]
            assert "lrb_sk_" in error_of(refused)["message"]

    def test_of_a_source_key_on_the_management_api_is_refused_alike(self, app: Flask, alice: Tenant) -> None:
        refused = ApiClient(app.test_client(), alice.key).get("/v1/workspace")

        assert refused.status_code == 401
        assert "lrb_mt_" in error_of(refused)["message"]


def test_revoking_holds_for_a_caller_that_came_over_python(context: Context, alice: Tenant) -> None:
    operator = _operator(context, alice)
    mine = issue_token(context.database, context.credentials, operator, NewToken(role=Role.AUDITOR))

    assert revoke_token(context.database, operator, Target(mine.id)).revoked_at is not None
    with pytest.raises(InvalidManagementToken):
        authenticate(f"Bearer {mine.token}", context.credentials, context.database)


def test_a_use_within_the_minute_writes_nothing(api: ApiClient, context: Context, alice: Tenant) -> None:
    execute(
        context,
        "UPDATE management_tokens SET last_used_at = now() - interval '50 seconds' WHERE public_id = :id",
        id=alice.token_id,
    )
    before = rows(context, "SELECT xmin, last_used_at FROM management_tokens WHERE public_id = :id", id=alice.token_id)

    assert api.get("/v1/workspace").status_code == 200

    assert before == rows(
        context, "SELECT xmin, last_used_at FROM management_tokens WHERE public_id = :id", id=alice.token_id
    )
