"""Marking expired credentials: once per expiry, with its audit entry, removed when the expiry moves."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Connection, Row, event

from app.context import Context
from app.database.engine import TenantScope
from app.errors import OutcomeUnknown
from app.maintenance import key_life
from app.maintenance.key_life import mark_expired_keys
from app.maintenance.task import TaskResult
from app.management.common.authentication import authenticate
from app.management.common.etags import Target
from app.management.common.mutations import Change
from app.management.common.operators import Role
from app.management.keys.domain import change_key
from app.management.tokens.domain import NewToken
from tests.support.lossy_commits import LossyCommits
from tests.support.operating import ApiClient, api_of, api_with, at_once
from tests.support.people import Tenant, execute, issue_key, rows, source_of

_NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)
_ELEVEN = _NOON - timedelta(hours=1)

pytestmark = pytest.mark.wiring


@pytest.fixture(name="api")
def _api(app: Flask, alice: Tenant) -> ApiClient:
    return api_of(app, alice)


@pytest.fixture(autouse=True)
def _nothing_of_other_tests_is_due(context: Context) -> None:
    """At no time that a test takes: some leave a key that ends after noon, and others run a while after it."""
    _run(context, now=datetime(2200, 1, 1, tzinfo=UTC))


def _run(context: Context, now: datetime = _NOON, **bound: Any) -> TaskResult:
    return mark_expired_keys(context.database, now=now, **bound)


def _end_key(context: Context, tenant: Tenant, at: datetime = _ELEVEN) -> None:
    """As if the key had been given this end in time."""
    execute(context, "UPDATE source_keys SET expires_at = :at WHERE id = :id", at=at, id=tenant.key_row)


def _end_token(context: Context, token_id: str, at: datetime = _ELEVEN) -> None:
    execute(context, "UPDATE management_tokens SET expires_at = :at WHERE public_id = :id", at=at, id=token_id)


def _more_keys(context: Context, tenant: Tenant, number: int) -> list[str]:
    source = source_of(context, tenant)
    return [issue_key(context, source, expires_at=_ELEVEN + timedelta(seconds=n))[1] for n in range(number)]


def _key(context: Context, tenant: Tenant) -> Row[Any]:
    statement = "SELECT expires_at, expired_at, updated_at FROM source_keys WHERE id = :id"
    return rows(context, statement, id=tenant.key_row)[0]


def _expiries(context: Context, object_id: str) -> list[tuple[Any, ...]]:
    """Their audit entries: (before, after), the oldest first."""
    statement = "SELECT before, after FROM audit_entries WHERE object_id = :id AND action LIKE '%.expire' ORDER BY id"
    return [(row.before["expired_at"], row.after["expired_at"]) for row in rows(context, statement, id=object_id)]


def test_a_key_past_its_expiry_is_marked_with_it_and_has_an_entry(
    context: Context, api: ApiClient, alice: Tenant
) -> None:
    _end_key(context, alice)

    assert _run(context) == TaskResult(rows=1)

    assert _key(context, alice).expired_at == _ELEVEN
    (entry,) = api.all_of("/v1/audit", actor="worker")
    assert {name: entry[name] for name in set(entry) - {"id", "created_at"}} == {
        "actor": "worker",
        "action": "source_key.expire",
        "object_id": alice.key_id,
        "project_id": alice.project_id,
        "before": {"expired_at": None},
        "after": {"expired_at": "2024-02-29T11:00:00Z"},
        "address": None,
        "request_id": None,
    }


def test_so_has_a_token_which_belongs_to_the_workspace_as_a_whole(
    app: Flask, context: Context, api: ApiClient, alice: Tenant
) -> None:
    limited = api.made("/v1/tokens", {"role": "auditor", "project_ids": [alice.project_id]})["id"]
    _end_token(context, limited)

    assert _run(context) == TaskResult(rows=1)

    assert _expiries(context, limited) == [(None, "2024-02-29T11:00:00Z")]
    (entry,) = api.all_of("/v1/audit", actor="worker")
    assert (entry["action"], entry["project_id"]) == ("management_token.expire", None)
    narrow = api_with(app, context, alice, NewToken(role=Role.AUDITOR, project_ids=(alice.project_id,)))
    assert narrow.all_of("/v1/audit", actor="worker") == []


def test_entries_stand_in_their_own_workspace(app: Flask, context: Context, alice: Tenant, charlie: Tenant) -> None:
    for tenant in (alice, charlie):
        _end_key(context, tenant)

    assert _run(context) == TaskResult(rows=2)

    for tenant in (alice, charlie):
        (entry,) = api_of(app, tenant).all_of("/v1/audit", action="source_key.*")
        assert entry["object_id"] == tenant.key_id


def test_what_goes_on_or_is_revoked_is_not_marked(context: Context, alice: Tenant, charlie: Tenant) -> None:
    _end_key(context, alice, _NOON + timedelta(microseconds=1))
    _end_key(context, charlie)
    execute(context, "UPDATE source_keys SET revoked_at = now() WHERE id = :id", id=charlie.key_row)
    _end_token(context, charlie.token_id)
    execute(context, "UPDATE management_tokens SET revoked_at = now() WHERE public_id = :id", id=charlie.token_id)

    assert _run(context) == TaskResult(rows=0)

    assert _key(context, alice).expired_at is _key(context, charlie).expired_at is None


def test_the_moment_of_the_expiry_is_past_it(context: Context, alice: Tenant) -> None:
    """As where events are written."""
    _end_key(context, alice, _NOON)

    assert _run(context) == TaskResult(rows=1)


class TestOnce:
    def test_however_often_it_runs(self, context: Context, alice: Tenant) -> None:
        _end_key(context, alice)

        assert [_run(context).rows for _ in range(3)] == [1, 0, 0]
        assert len(_expiries(context, alice.key_id)) == 1

    def test_however_many_run_at_once(self, context: Context, alice: Tenant) -> None:
        keys = _more_keys(context, alice, 40)

        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(lambda _: _run(context, batch_rows=3), range(4)))

        assert sum(each.rows for each in done) == 40
        assert [len(_expiries(context, key)) for key in keys] == [1] * 40

    @pytest.mark.parametrize(("how", "marked"), [("after", 1), ("before", 0)])
    def test_whatever_becomes_of_its_commit(
        self, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch, how: str, marked: int
    ) -> None:
        _end_key(context, alice)
        LossyCommits(monkeypatch, how)

        with pytest.raises(OutcomeUnknown):
            _run(context)

        assert len(_expiries(context, alice.key_id)) == marked
        assert _run(context) == TaskResult(rows=1 - marked)
        assert len(_expiries(context, alice.key_id)) == 1

    def test_a_mark_without_its_entry_is_none(
        self, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _end_key(context, alice)

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(key_life, "record_all", die)
        with pytest.raises(KeyboardInterrupt):
            _run(context)
        monkeypatch.undo()

        assert _key(context, alice).expired_at is None
        assert _run(context) == TaskResult(rows=1)


class TestBounds:
    @pytest.mark.parametrize("batch_rows", [1, 2, 5, 6])
    def test_it_goes_on_batch_after_batch_with_keys_and_then_with_tokens(
        self, context: Context, alice: Tenant, batch_rows: int
    ) -> None:
        _more_keys(context, alice, 5)
        _end_token(context, alice.token_id)

        assert _run(context, batch_rows=batch_rows) == TaskResult(rows=6)

    def test_it_ends_with_its_time_and_says_that_there_is_more(self, context: Context, alice: Tenant) -> None:
        keys = _more_keys(context, alice, 5)
        _end_token(context, alice.token_id)

        done = mark_expired_keys(context.database, now=_NOON, is_over=lambda: True, batch_rows=2)

        assert done == TaskResult(rows=2, has_more=True)
        # Those that have waited the longest come first.
        assert [len(_expiries(context, key)) for key in keys] == [1, 1, 0, 0, 0]
        assert _run(context, batch_rows=2) == TaskResult(rows=4)

    def test_it_looks_at_what_may_be_due_and_at_nothing_else(self, context: Context) -> None:
        """By the partial indexes, also under row level security."""
        sent: list[tuple[str, Any]] = []

        def note(_: Connection, __: object, statement: str, parameters: Any, *___: object) -> None:
            sent.append((statement, parameters))

        event.listen(context.database.engine, "before_cursor_execute", note)
        try:
            _run(context)
        finally:
            event.remove(context.database.engine, "before_cursor_execute", note)

        keys, tokens = (_plan(context, *each) for each in sent if "WITH due" in each[0])
        sought = r"ix_{}_unmarked\b.*\n +Index Cond: \(expires_at <= LEAST"
        assert re.search(sought.format("source_keys"), keys), keys
        assert re.search(sought.format("management_tokens"), tokens), tokens


def _plan(context: Context, statement: str, parameters: Any) -> str:
    with context.database.transaction(TenantScope.ALL) as session:
        connection = session.connection()
        # The tests' tables are so small that reading them whole is cheapest.
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        return "\n".join(connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars())


class TestClocks:
    def test_a_worker_that_is_ahead_marks_nothing_before_the_databases_clock_says_so(
        self, context: Context, alice: Tenant
    ) -> None:
        _end_key(context, alice, datetime.now(UTC) + timedelta(hours=1))

        _run(context, now=datetime(2200, 1, 1, tzinfo=UTC))

        assert _key(context, alice).expired_at is None

    def test_no_mark_is_older_than_its_expiry(self, context: Context, alice: Tenant) -> None:
        """By one clock, PostgreSQL's: the entry's transaction began when the expiry was past."""
        execute(context, "UPDATE source_keys SET expires_at = clock_timestamp() WHERE id = :id", id=alice.key_row)

        _run(context, now=datetime(2200, 1, 1, tzinfo=UTC))

        statement = "SELECT created_at FROM audit_entries WHERE object_id = :id"
        (entry,) = rows(context, statement, id=alice.key_id)
        assert entry.created_at >= _key(context, alice).expired_at

    def test_two_that_differ_leave_one_entry(self, context: Context, alice: Tenant) -> None:
        ahead, behind = _NOON + timedelta(minutes=5), _NOON - timedelta(minutes=5)
        _end_key(context, alice, _NOON)

        assert [_run(context, now=now).rows for now in (behind, ahead, behind, ahead)] == [0, 1, 0, 0]
        assert _expiries(context, alice.key_id) == [(None, "2024-02-29T12:00:00Z")]


class TestMovedExpiry:
    _LATER = "2199-01-31T12:00:00Z"

    def test_the_mark_is_taken_back_in_the_change_that_moves_it(
        self, context: Context, api: ApiClient, alice: Tenant
    ) -> None:
        _end_key(context, alice)
        _run(context)

        assert api.patch(f"/v1/keys/{alice.key_id}", {"expires_at": self._LATER}).status_code == 200

        assert _key(context, alice).expired_at is None
        (entry,) = api.all_of("/v1/audit", action="source_key.update")
        assert entry["before"] == dict.fromkeys(("expires_at", "expired_at"), "2024-02-29T11:00:00Z")
        assert entry["after"] == {"expires_at": self._LATER, "expired_at": None}

    @pytest.mark.parametrize("expires_at", [_LATER, None])
    def test_a_later_expiry_is_marked_again(
        self, context: Context, api: ApiClient, alice: Tenant, expires_at: str | None
    ) -> None:
        _end_key(context, alice)
        _run(context)
        api.patch(f"/v1/keys/{alice.key_id}", {"expires_at": expires_at})
        assert _run(context) == TaskResult(rows=0)

        _end_key(context, alice, _NOON)

        assert _run(context) == TaskResult(rows=1)
        assert _expiries(context, alice.key_id) == [(None, "2024-02-29T11:00:00Z"), (None, "2024-02-29T12:00:00Z")]

    def test_also_if_the_code_that_moved_it_knew_nothing_of_marks(self, context: Context, alice: Tenant) -> None:
        """Code of the release before, while a deploy runs."""
        _end_key(context, alice)
        _run(context)
        _end_key(context, alice, _NOON)

        assert [_run(context).rows for _ in range(2)] == [1, 0]
        assert _expiries(context, alice.key_id)[1] == ("2024-02-29T11:00:00Z", "2024-02-29T12:00:00Z")

    def test_a_change_that_moves_nothing_leaves_the_mark(self, context: Context, api: ApiClient, alice: Tenant) -> None:
        _end_key(context, alice)
        _run(context)
        operator = authenticate(f"Bearer {alice.token}", context.credentials, context.database)

        api.patch(f"/v1/keys/{alice.key_id}", {"label": "till 7"})
        # Over the API it would have to lie ahead, by the clock of a web server.
        change_key(context.database, operator, Target(alice.key_id), Change({"expires_at": _ELEVEN}))
        api.post(f"/v1/keys/{alice.key_id}/revoke")

        assert _key(context, alice).expired_at == _ELEVEN
        assert _run(context) == TaskResult(rows=0)

    def test_whichever_is_first_a_key_that_was_prolonged_is_not_marked(
        self, context: Context, api: ApiClient, alice: Tenant
    ) -> None:
        for _ in range(10):
            _end_key(context, alice)
            calls: list[Callable[[], object]] = [
                partial(_run, context),
                partial(api.patch, f"/v1/keys/{alice.key_id}", {"expires_at": self._LATER}),
            ]

            at_once(calls)

            assert _key(context, alice).expired_at is None
        assert _run(context) == TaskResult(rows=0)

    def test_a_key_that_an_operator_is_just_changing_is_skipped_without_a_wait(
        self, context: Context, alice: Tenant
    ) -> None:
        _end_key(context, alice)
        with context.database.transaction(TenantScope.ALL) as session:
            session.connection().exec_driver_sql(
                "UPDATE source_keys SET revoked_at = now() WHERE id = %s", (alice.key_row,)
            )
            assert _run(context) == TaskResult(rows=0)

        assert _run(context) == TaskResult(rows=0)
        assert _expiries(context, alice.key_id) == []


def test_nothing_that_is_answered_depends_on_the_mark(context: Context, api: ApiClient, alice: Tenant) -> None:
    """Nor does the ETag move: no operator has changed anything."""
    token = api.made("/v1/tokens", {"role": "auditor"})["id"]
    _end_key(context, alice)
    _end_token(context, token)
    objects = (f"/v1/keys/{alice.key_id}", f"/v1/tokens/{token}")

    def answered() -> list[tuple[Any, str | None]]:
        answers = [api.get(path) for path in objects]
        answers += [api.get(path, state="expired") for path in ("/v1/keys", "/v1/tokens")]
        return [(each.json, each.headers.get("ETag")) for each in answers]

    before = answered()

    assert _run(context) == TaskResult(rows=2)

    assert answered() == before
    assert [shown["state"] for shown, _ in before[:2]] == ["expired", "expired"]
