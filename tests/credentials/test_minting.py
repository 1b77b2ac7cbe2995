"""Argon2 runs beside no transaction, and not for what is refused anyway; what it makes is shown to no reader."""

from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
from flask import Flask

from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from app.factory import create_app
from app.management.common.operators import Role
from app.management.workspace.domain import create_workspace, issue_workspace_token
from tests.support.databases import SECRET_KEY, close
from tests.support.hashers import CountingHasher
from tests.support.operating import ApiClient, api_of, at_once
from tests.support.people import Tenant, execute, rows
from tests.support.sending import error_of, pointers_of, send


@pytest.fixture(name="hasher")
def _hasher() -> CountingHasher:
    return CountingHasher()


@pytest.fixture(name="own_app")
def _own_app(settings: Settings, hasher: CountingHasher) -> Iterator[Flask]:
    credentials = Credentials((SECRET_KEY,), argon2_runs_max=4, hasher=hasher)
    credentials.preload(lambda: ())  # or the first key would take a connection for it
    app = create_app(replace(settings, database_pool_size=12), credentials=credentials)
    yield app
    close(app.extensions[EXTENSION].database)


@pytest.fixture(name="own")
def _own(own_app: Flask) -> Context:
    """The parts of a process whose argon2 runs are counted."""
    context = own_app.extensions[EXTENSION]
    assert isinstance(context, Context)
    return context


@pytest.fixture(name="api")
def _api(own_app: Flask, alice: Tenant) -> ApiClient:
    return api_of(own_app, alice)


Act = Callable[[ApiClient, Context, Tenant], object]
_ISSUING: dict[str, Act] = {
    "a key": lambda api, _, alice: api.made(f"/v1/sources/{alice.source_id}/keys", {}),
    "a successor": lambda api, _, alice: api.made(f"/v1/keys/{alice.key_id}/rotate", {}),
    "a source with its first key": lambda api, _, alice: api.made(
        f"/v1/environments/{alice.environment_id}/sources", {"name": "new", "type": "backend", "key": {}}
    ),
    "a token": lambda api, *_: api.made("/v1/tokens", {"role": "auditor"}),
    "a workspace": lambda _, own, __: create_workspace(own.database, own.credentials, "New"),
    "a token from the shell": lambda _, own, alice: issue_workspace_token(
        own.database, own.credentials, alice.workspace_id, "", Role.AUDITOR
    ),
}
_STALE = "UPDATE {table} SET secret_digest = NULL, secret_hash = :hash WHERE workspace_id = :id"


class TestNoTransactionIsOpenWhileArgon2Runs:
    @pytest.fixture(name="connections_in_use", autouse=True)
    def _connections_in_use(self, own: Context, hasher: CountingHasher) -> list[int]:
        """Of the pool, at each run: a transaction would have one."""
        seen: list[int] = []
        pool = own.database.engine.pool
        hasher.during_a_run = lambda: seen.append(pool.checkedout())  # type: ignore[attr-defined]
        return seen

    @pytest.mark.parametrize("what", _ISSUING)
    def test_to_issue(
        self, api: ApiClient, own: Context, alice: Tenant, what: str, connections_in_use: list[int]
    ) -> None:
        _ISSUING[what](api, own, alice)

        assert connections_in_use == [0]

    @pytest.mark.parametrize("table", ["source_keys", "management_tokens"])
    def test_to_verify_and_to_renew_a_hash(
        self, api: ApiClient, own: Context, alice: Tenant, table: str, connections_in_use: list[int]
    ) -> None:
        stored = rows(own, f"SELECT secret_hash FROM {table} WHERE workspace_id = :id", id=alice.workspace_row)
        stale = _with_a_stale_hash(alice.key if table == "source_keys" else alice.token)
        execute(own, _STALE.format(table=table), hash=stale, id=alice.workspace_row)

        assert (send(api.client, alice) if table == "source_keys" else api.get("/v1/projects")).status_code < 300
        assert connections_in_use == [0, 0]
        renewed = rows(own, f"SELECT secret_hash FROM {table} WHERE workspace_id = :id", id=alice.workspace_row)
        assert renewed[0].secret_hash not in (stale, stored[0].secret_hash)


class TestWhatIsRefusedRunsNoArgon2:
    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/v1/sources/src_nobody/keys", {}),
            ("/v1/keys/key_nobody/rotate", {}),
            ("/v1/environments/env_nobody/sources", {"name": "n", "type": "backend", "key": {}}),
        ],
    )
    def test_what_belongs_to_nothing(self, api: ApiClient, hasher: CountingHasher, path: str, body: object) -> None:
        assert api.post(path, body).status_code == 404
        assert hasher.hashes == 0

    def test_a_rotation_of_a_state_that_is_gone(self, api: ApiClient, hasher: CountingHasher, alice: Tenant) -> None:
        refused = api.post(f"/v1/keys/{alice.key_id}/rotate", {}, headers={"If-Match": '"old"'})

        assert refused.status_code == 412
        assert hasher.hashes == 0

    def test_a_token_for_a_project_that_does_not_exist(self, api: ApiClient, hasher: CountingHasher) -> None:
        refused = api.post("/v1/tokens", {"role": "auditor", "project_ids": ["prj_nobody"]})

        assert refused.status_code == 422
        assert pointers_of(refused) == {"/project_ids/0"}
        assert hasher.hashes == 0

    def test_a_source_with_a_name_that_is_taken(self, api: ApiClient, hasher: CountingHasher, alice: Tenant) -> None:
        path, source = f"/v1/environments/{alice.environment_id}/sources", {"name": "checkout", "type": "backend"}
        with_key = api.post(path, source | {"key": {}})

        assert with_key.status_code == 409
        assert hasher.hashes == 0
        # In the same words as the index, which alone decides where there is nothing to hash.
        assert error_of(with_key)["message"] == error_of(api.post(path, source))["message"]
        assert error_of(with_key)["details"] == error_of(api.post(path, source))["details"]

    def test_only_a_live_source_of_the_same_environment_has_taken_a_name(
        self, api: ApiClient, hasher: CountingHasher, alice: Tenant
    ) -> None:
        source = {"name": "checkout", "type": "backend", "key": {}}
        other = api.made(f"/v1/projects/{alice.project_id}/environments", {"name": "other"})
        api.made(f"/v1/environments/{other['id']}/sources", source)
        api.delete(f"/v1/sources/{alice.source_id}")

        api.made(f"/v1/environments/{alice.environment_id}/sources", source)

        assert hasher.hashes == 2

    def test_a_second_rotation(self, api: ApiClient, hasher: CountingHasher, alice: Tenant) -> None:
        api.made(f"/v1/keys/{alice.key_id}/rotate", {})

        assert api.post(f"/v1/keys/{alice.key_id}/rotate", {}).status_code == 409
        assert hasher.hashes == 1

    @pytest.mark.parametrize("what", ["key", "successor", "source", "token"])
    def test_a_request_that_was_carried_out_before(
        self, api: ApiClient, hasher: CountingHasher, alice: Tenant, what: str
    ) -> None:
        path, body = _paths(alice)[what]
        first = api.post(path, body, headers={"Idempotency-Key": "k"})

        again = api.post(path, body, headers={"Idempotency-Key": "k"})
        other = api.post(path, {**body, "more": 1}, headers={"Idempotency-Key": "k"})

        assert first.status_code == 201
        assert error_of(again)["code"] == "credential_already_shown"
        assert other.status_code == 422
        assert hasher.hashes == 1


@pytest.mark.parametrize("what", ["key", "successor", "source", "token"])
def test_one_request_sent_many_times_at_once_is_carried_out_once(
    own_app: Flask, own: Context, alice: Tenant, what: str
) -> None:
    path, body = _paths(alice)[what]
    apis = [api_of(own_app, alice) for _ in range(6)]

    def ask(api: ApiClient) -> str:
        """Its code, once nothing says to ask again: on a busy machine a lock or an argon2 run may come too late."""
        while "Retry-After" in (answer := api.post(path, body, headers={"Idempotency-Key": "k"})).headers:
            assert error_of(answer)["code"] in ("idempotency_in_progress", "storage_unavailable")
        return "" if answer.status_code == 201 else str(error_of(answer)["code"])

    codes = at_once([partial(ask, api) for api in apis])

    assert sorted(codes) == ["", *5 * ["credential_already_shown"]]
    count = "SELECT (SELECT count(*) FROM source_keys WHERE workspace_id = :id) AS keys"
    tokens = ", (SELECT count(*) FROM management_tokens WHERE workspace_id = :id) AS tokens"
    made = rows(own, count + tokens, id=alice.workspace_row)[0]
    assert (made.keys, made.tokens) == ((1, 2) if what == "token" else (2, 1))


def test_neither_hash_nor_digest_is_shown_to_any_reader(
    api: ApiClient, own: Context, alice: Tenant, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = "".join(api.post(path, body).text for path, body in _paths(alice).values())
    shown += send(api.client, alice).text
    shown += "".join(api.get(path).text for path in ("/v1/keys", "/v1/tokens", "/v1/sources", "/v1/audit"))
    audit = "SELECT entry::text FROM audit_entries AS entry WHERE workspace_id = :id"
    shown += "".join(row.entry for row in rows(own, audit, id=alice.workspace_row))
    shown += "".join(capfd.readouterr())

    stored = []
    for table in ("source_keys", "management_tokens"):
        columns = f"SELECT secret_hash, secret_digest FROM {table} WHERE workspace_id = :id"
        stored += rows(own, columns, id=alice.workspace_row)
    assert len(stored) == 6
    assert "secret_" not in shown
    for row in stored:
        assert row.secret_hash not in shown
        for text in (row.secret_digest.hex(), b64encode(row.secret_digest).decode(), repr(row.secret_digest)):
            assert text not in shown


def _paths(alice: Tenant) -> dict[str, tuple[str, dict[str, object]]]:
    source: dict[str, object] = {"name": "new", "type": "backend", "key": {}}
    return {
        "key": (f"/v1/sources/{alice.source_id}/keys", {}),
        "successor": (f"/v1/keys/{alice.key_id}/rotate", {}),
        "source": (f"/v1/environments/{alice.environment_id}/sources", source),
        "token": ("/v1/tokens", {"role": "auditor"}),
    }


def _with_a_stale_hash(text: str) -> str:
    return CountingHasher(time_cost=2).hash(text[24:57])
