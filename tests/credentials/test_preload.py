"""The keys that were used last, in the cache of a new process: which they are, and what reading them may cost."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from argon2 import PasswordHasher, profiles
from sqlalchemy import text
from structlog.testing import CapturingLogger

from app.context import Context
from app.credentials import table, verification
from app.credentials.table import CredentialTable
from app.credentials.verification import Credentials, HashForm, Identity, StoredCredential, Verification
from app.errors import StorageUnavailable
from tests.support.hashers import CountingHasher
from tests.support.people import Tenant, execute, make_tenant, rows
from tests.support.waiting import wait_for_preloads, wait_until

_KEYS = CredentialTable("source_keys")
_CHEAPEST = PasswordHasher.from_parameters(profiles.CHEAPEST)


@pytest.fixture(name="fresh")
def _fresh() -> Iterator[Credentials]:
    """Of a process that has just begun."""
    yield Credentials(("s" * 40,), argon2_runs_max=1, hasher=_CHEAPEST)
    wait_for_preloads()


def test_they_are_read_once_in_a_process(fresh: Credentials) -> None:
    read: list[int] = []

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: fresh.preload(_reading(read)), range(50)))
    wait_for_preloads()

    assert read == [1]


def test_a_machine_without_a_thread_for_it_reads_them_later(
    fresh: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    read: list[int] = []
    with monkeypatch.context() as machine:
        machine.setattr(threading.Thread, "start", refuse)
        fresh.preload(_reading([]))
    fresh.preload(_reading(read))
    wait_for_preloads()

    assert read == [1]


@pytest.mark.parametrize(("error", "level"), [(StorageUnavailable(), "warning"), (ZeroDivisionError(), "exception")])
def test_if_they_cannot_be_read_the_log_says_so_and_each_is_looked_up(
    fresh: Credentials, error: Exception, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = CapturingLogger()
    monkeypatch.setattr(verification, "_log", log)
    minted = fresh.mint("sk")
    identity = Identity(f"key_{minted.key_id}", 7, 3)

    def fail() -> list[tuple[bytes, Identity]]:
        raise error

    fresh.preload(fail)
    wait_for_preloads()

    assert [(call.method_name, call.args) for call in log.calls] == [(level, ("credentials_not_preloaded",))]
    credential = fresh.parse(minted.text, "sk")
    assert credential is not None
    stored = StoredCredential(identity, minted.secret_hash, minted.secret_digest)
    assert fresh.verify(credential, lambda _: stored) == Verification(identity)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_reads_them_itself_and_waits_for_no_thread_of_its_parent() -> None:
    hasher = CountingHasher()
    credentials = Credentials(("s" * 40,), argon2_runs_max=1, hasher=hasher)
    minted = credentials.mint("sk")
    stored = StoredCredential(Identity(f"key_{minted.key_id}", 7, 3), minted.secret_hash, None)
    credential = credentials.parse(minted.text, "sk")
    assert credential is not None
    read: list[int] = []
    hasher.may_finish.clear()

    with ThreadPoolExecutor(1) as pool:
        credentials.preload(_reading(read))
        first = pool.submit(credentials.verify, credential, lambda _: stored)
        wait_until(lambda: hasher.runs)
        child = os.fork()
        if child == 0:  # pragma: no cover - in another process
            try:
                hasher.may_finish = threading.Event()
                hasher.may_finish.set()
                read.clear()
                credentials.preload(_reading(read))
                wait_for_preloads()
                assert credentials.verify(credential, lambda _: stored) is not None
                os._exit(0 if read else 2)
            finally:
                os._exit(1)
        exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        hasher.may_finish.set()
        assert first.result() is not None

    assert exit_code == 0


class TestTheRows:
    def test_of_seven_days_are_read(self, context: Context) -> None:
        expected = {"1 minute": True, "6 days 23 hours": True, "7 days 1 hour": False, "1 year": False}
        tenants = {age: make_tenant(context) for age in expected}
        never = make_tenant(context)
        for age, tenant in tenants.items():
            _used(context, tenant, f"now() - interval '{age}'")

        read = _read(context)

        assert {age: _whose(tenant) in read for age, tenant in tenants.items()} == expected
        assert _whose(never) not in read

    @pytest.mark.parametrize(
        "change",
        [
            *("revoked_at = now()", "secret_digest = NULL", "secret_hash = secret_hash || 'A'"),
            "secret_hash = replace(secret_hash, 't=1', 't=2')",
            f"secret_hash = '{PasswordHasher().hash('x')}'",
        ],
    )
    def test_that_need_more_than_a_comparison_are_left_out(self, context: Context, alice: Tenant, change: str) -> None:
        _used(context, alice, "now()")
        assert _whose(alice) in _read(context)

        execute(context, f"UPDATE source_keys SET {change} WHERE id = :id", id=alice.key_row)

        assert _whose(alice) not in _read(context)

    def test_are_those_that_were_used_last_if_there_are_too_many(
        self, context: Context, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tenants = [make_tenant(context) for _ in range(4)]
        for age, tenant in enumerate(tenants):
            _used(context, tenant, f"now() + interval '1 hour' - interval '{age} seconds'")
        monkeypatch.setattr(table, "_USED_LAST_MAX", 3)

        read = _KEYS.used_last(context.database, context.credentials.hash_form)

        assert [identity for _, identity in read] == [_whose(tenant) for tenant in tenants[:3]]
        execute(context, "UPDATE source_keys SET last_used_at = NULL WHERE last_used_at > now()")

    def test_have_the_digests_of_their_keys(self, context: Context, alice: Tenant) -> None:
        _used(context, alice, "now()")
        credential = context.credentials.parse(alice.key, "sk")
        assert credential is not None

        read = _KEYS.used_last(context.database, context.credentials.hash_form)

        assert (credential.digest, _whose(alice)) in read

    def test_are_read_in_bounded_time_and_sorted_in_memory_and_the_next_transaction_is_as_ever(
        self, context: Context
    ) -> None:
        settings = "current_setting('statement_timeout') AS time, current_setting('work_mem') AS memory"
        watched = CredentialTable("source_keys")
        watched._used_last = text(  # noqa: SLF001
            f"SELECT {settings}, 1, 1 WHERE :prefix || :characters || :most <> ''"
        )

        ((time, identity),) = watched.used_last(context.database, context.credentials.hash_form)

        assert (str(time), identity.public_id) == ("5s", "16MB")
        assert [row.time for row in rows(context, f"SELECT {settings}")] == ["30s"]

    def test_that_take_too_long_are_given_up_as_if_the_database_were_away(
        self, context: Context, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        watched = CredentialTable("source_keys")
        watched._used_last = text(  # noqa: SLF001
            "SELECT pg_sleep(60) WHERE :prefix || :characters || :most <> ''"
        )
        monkeypatch.setattr(table, "_BOUND_USED_LAST", text("SELECT set_config('statement_timeout', '10ms', true)"))

        with pytest.raises(StorageUnavailable):
            watched.used_last(context.database, context.credentials.hash_form)


@pytest.mark.parametrize(
    "changed",
    [
        *({}, {"time_cost": 2}, {"time_cost": 11}, {"memory_cost": 32}, {"memory_cost": 160}, {"parallelism": 2}),
        *({"hash_len": 5}, {"hash_len": 16}, {"salt_len": 9}, {"salt_len": 16}, {"hash_len": 8, "salt_len": 16}),
    ],
)
def test_the_form_of_a_hash_tells_parameters_apart_as_argon2_does(changed: dict[str, int]) -> None:
    parameters: dict[str, Any] = {"time_cost": 1, "memory_cost": 16, "parallelism": 1, "hash_len": 4, "salt_len": 8}
    hasher, other = PasswordHasher(**parameters), PasswordHasher(**(parameters | changed))

    assert HashForm.of(other).fits(other.hash("secret"))
    assert HashForm.of(hasher).fits(other.hash("secret")) is not hasher.check_needs_rehash(other.hash("secret"))


def _reading(read: list[int]) -> Callable[[], list[tuple[bytes, Identity]]]:
    def read_none() -> list[tuple[bytes, Identity]]:
        read.append(1)
        return []

    return read_none


def _used(context: Context, tenant: Tenant, at: str) -> None:
    execute(context, f"UPDATE source_keys SET last_used_at = {at} WHERE id = :id", id=tenant.key_row)


def _read(context: Context) -> set[Identity]:
    return {identity for _, identity in _KEYS.used_last(context.database, context.credentials.hash_form)}


def _whose(tenant: Tenant) -> Identity:
    return Identity(tenant.key_id, tenant.key_row, tenant.workspace_row)
