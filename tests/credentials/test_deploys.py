"""New processes and new secrets of the server: how often argon2 runs for keys that were issued before."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from threading import Event

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials.table import CredentialTable
from app.credentials.verification import Credentials, Identity
from app.factory import create_app
from tests.support.databases import SECRET_KEY, close
from tests.support.hashers import CountingHasher
from tests.support.people import Tenant, events_of, execute, make_tenant, rows
from tests.support.sending import error_of, event_for, send
from tests.support.waiting import wait_for_preloads

_NEW_SECRET = "a new secret for tests only and long enough to be taken"
_AT_ONCE = 2

Start = Callable[..., FlaskClient]


@pytest.fixture(name="hasher")
def _hasher() -> CountingHasher:
    """Argon2 of all processes."""
    return CountingHasher()


@pytest.fixture(name="start")
def _start(settings: Settings, hasher: CountingHasher) -> Iterator[Start]:
    """Starts a web process, as far as credentials go: with an empty cache, and with these secrets of the server."""
    with ExitStack() as stack:

        def start(*secrets: str, own_hasher: CountingHasher = hasher) -> FlaskClient:
            credentials = Credentials(secrets or (SECRET_KEY,), argon2_runs_max=_AT_ONCE, hasher=own_hasher)
            app = create_app(replace(settings, database_pool_size=4), credentials=credentials)
            stack.callback(close, _context(app).database)
            return app.test_client()

        yield start


@pytest.fixture(name="tenants")
def _tenants(context: Context) -> list[Tenant]:
    return [make_tenant(context) for _ in range(5)]


def test_a_fresh_process_runs_argon2_for_no_key_and_no_token(
    start: Start, hasher: CountingHasher, tenants: list[Tenant]
) -> None:
    for client in (start(), start()):
        assert {send(client, tenant).status_code for tenant in tenants} == {201}
        assert {_list_projects(client, tenant) for tenant in tenants} == {200}

    assert (hasher.runs, hasher.hashes) == (0, 0)


def test_a_fresh_process_has_the_keys_cached_that_were_used_last(
    start: Start, context: Context, hasher: CountingHasher, tenants: list[Tenant]
) -> None:
    first, used, revoked, stale, *_ = tenants
    execute(context, "UPDATE source_keys SET last_used_at = now() WHERE workspace_id = ANY(:own)", own=_own(tenants))
    execute(context, "UPDATE source_keys SET revoked_at = now() WHERE id = :id", id=revoked.key_row)
    stale_hash = CountingHasher(time_cost=2).hash(stale.key[24:57])
    execute(context, "UPDATE source_keys SET secret_hash = :hash WHERE id = :id", hash=stale_hash, id=stale.key_row)
    client = start()
    cached = _context(client.application).credentials

    assert [cached.lookup_cached(tenant.key, "sk") for tenant in tenants] == [None] * len(tenants)
    assert send(client, first).status_code == 201
    wait_for_preloads()
    identity = cached.lookup_cached(used.key, "sk")
    assert identity == Identity(used.key_id, used.key_row, used.workspace_row)
    assert cached.lookup_cached(revoked.key, "sk") is None
    assert cached.lookup_cached(stale.key, "sk") is None
    assert send(client, stale).status_code == 201
    assert (hasher.runs, hasher.hashes) == (1, 1)


def test_no_key_waits_until_the_keys_that_were_used_last_are_read(
    start: Start, tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    are_answered = Event()
    read: list[bool] = []

    def used_last(*_: object) -> list[tuple[bytes, Identity]]:
        read.append(are_answered.wait(60))
        return []

    monkeypatch.setattr(CredentialTable, "used_last", used_last)
    client = start()

    assert {send(client, tenant).status_code for tenant in tenants} == {201}
    assert read == []
    are_answered.set()
    wait_for_preloads()
    assert read == [True]


def test_a_key_that_the_server_has_not_signed_has_nothing_read(
    start: Start, tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Credentials] = []
    monkeypatch.setattr(Credentials, "preload", lambda credentials, _: begun.append(credentials))
    client, alice = start(), tenants[0]

    for forged in (alice.key[:-1], alice.key[:-1] + "-", alice.key[:24] + "0" * 43, alice.token, "", "x" * 67):
        assert send(client, alice, key=forged).status_code == 401
    assert begun == []
    assert send(client, alice).status_code == 201
    assert begun == [_context(client.application).credentials]


def test_a_rotation_of_the_servers_secret_runs_argon2_for_no_key_and_no_token(
    start: Start, hasher: CountingHasher, tenants: list[Tenant]
) -> None:
    for secrets in ((SECRET_KEY, _NEW_SECRET), (_NEW_SECRET, SECRET_KEY)):
        client = start(*secrets)
        assert {send(client, tenant).status_code for tenant in tenants} == {201}
        assert {_list_projects(client, tenant) for tenant in tenants} == {200}

    assert (hasher.runs, hasher.hashes) == (0, 0)


def test_what_a_secret_of_the_server_signed_ends_with_it_although_its_digest_is_stored(
    start: Start, context: Context, tenants: list[Tenant]
) -> None:
    client = start(_NEW_SECRET)

    for tenant in tenants:
        assert send(client, tenant).status_code == 401
        assert _list_projects(client, tenant) == 401
        assert events_of(context, tenant) == []


@pytest.mark.parametrize("digest", ["NULL", "''", r"'\x00'", "sha256('forged')"])
def test_a_row_without_the_digest_costs_one_run_over_all_processes(
    start: Start, context: Context, hasher: CountingHasher, tenants: list[Tenant], digest: str
) -> None:
    for table in ("source_keys", "management_tokens"):
        statement = f"UPDATE {table} SET secret_digest = {digest} WHERE workspace_id = ANY(:own)"
        execute(context, statement, own=_own(tenants))

    for client in (start(), start(), start()):
        assert {send(client, tenant).status_code for tenant in tenants} == {201}
        assert {_list_projects(client, tenant) for tenant in tenants} == {200}

    assert (hasher.runs, hasher.hashes) == (2 * len(tenants), 0)


def test_rows_without_a_digest_are_proven_no_more_than_argon2_runs_max_at_once(
    start: Start, context: Context, hasher: CountingHasher, tenants: list[Tenant]
) -> None:
    execute(context, "UPDATE source_keys SET secret_digest = NULL WHERE workspace_id = ANY(:own)", own=_own(tenants))
    client = start()

    with ThreadPoolExecutor(len(tenants)) as pool:
        assert {response.status_code for response in pool.map(lambda tenant: send(client, tenant), tenants)} == {201}

    assert hasher.runs == len(tenants)
    assert 1 <= hasher.at_once_most <= _AT_ONCE


def test_other_argon2_parameters_have_each_hash_made_anew_once(
    start: Start, context: Context, tenants: list[Tenant]
) -> None:
    stronger = CountingHasher(time_cost=2)

    for client in (start(own_hasher=stronger), start(own_hasher=stronger)):
        assert {send(client, tenant).status_code for tenant in tenants} == {201}

    assert (stronger.runs, stronger.hashes) == (len(tenants), len(tenants))
    hashes = rows(context, "SELECT secret_hash FROM source_keys WHERE workspace_id = ANY(:own)", own=_own(tenants))
    assert not any(stronger.check_needs_rehash(row.secret_hash) for row in hashes)


@pytest.mark.parametrize("is_preloaded", [False, True])
def test_a_row_with_another_keys_digest_and_hash_lets_neither_in_by_it(
    start: Start, context: Context, tenants: list[Tenant], *, is_preloaded: bool
) -> None:
    """Each row is preloaded whose key was used lately."""
    alice, charlie, dana, *_ = tenants
    execute(
        context,
        "UPDATE source_keys SET secret_digest = (SELECT secret_digest FROM source_keys WHERE id = :other),"
        " secret_hash = (SELECT secret_hash FROM source_keys WHERE id = :other),"
        " last_used_at = CASE WHEN :is_preloaded THEN now() END WHERE id = :id",
        id=alice.key_row,
        other=charlie.key_row,
        is_preloaded=is_preloaded,
    )
    clients = [start(), start()]
    assert {send(client, dana).status_code for client in clients} == {201}
    wait_for_preloads()

    assert send(clients[0], alice).status_code == 401
    body = event_for(alice)
    assert error_of(send(clients[1], charlie, body))["code"] == "source_mismatch"
    assert events_of(context, alice) == []
    assert {send(client, charlie).status_code for client in clients} == {201}


def test_a_key_that_is_revoked_before_a_process_meets_it_is_refused(
    start: Start, context: Context, tenants: list[Tenant]
) -> None:
    alice = tenants[0]
    assert send(start(), alice).status_code == 201
    execute(context, "UPDATE source_keys SET revoked_at = now() WHERE id = :id", id=alice.key_row)

    assert send(start(), alice).status_code == 401
    assert len(events_of(context, alice)) == 1


def test_a_revoked_key_is_refused_by_each_process_that_has_it_cached(
    start: Start, context: Context, tenants: list[Tenant]
) -> None:
    alice = tenants[0]
    clients = [start(), start()]
    assert {send(client, alice).status_code for client in clients} == {201}
    execute(context, "UPDATE source_keys SET revoked_at = now() WHERE id = :id", id=alice.key_row)

    assert {send(client, alice).status_code for client in clients * 2} == {401}
    assert len(events_of(context, alice)) == 2


def _own(tenants: list[Tenant]) -> list[int]:
    return [tenant.workspace_row for tenant in tenants]


def _list_projects(client: FlaskClient, tenant: Tenant) -> int:
    return client.get("/v1/projects", headers=tenant.bearer).status_code


def _context(app: Flask) -> Context:
    context = app.extensions[EXTENSION]
    assert isinstance(context, Context)
    return context
