"""/v1/audit: the audit log in pages and as an export."""

import json
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, IncompleteRead
from itertools import islice
from typing import Any

import psutil
import psycopg
import pytest
from flask import Flask
from sqlalchemy import text
from werkzeug.routing import Rule

from app.audit.entries import Author, Mutation, record
from app.config import Settings
from app.context import Context
from app.errors import InvalidManagementToken
from app.management.audit.domain import EntryFilter, export_entries
from app.management.common.authentication import authenticate
from app.management.common.operators import Operator, Role
from app.management.tokens.domain import NewToken
from app.management.workspace.domain import (
    create_workspace,
    issue_workspace_token,
    set_workspace_limit,
    set_workspace_status,
)
from app.models import WorkspaceStatus
from tests.support.every_route import named_in
from tests.support.live import LiveServer
from tests.support.operating import MOMENT, UNKNOWN_ID, ApiClient, api_with
from tests.support.people import Tenant, execute, rows
from tests.support.replaying import replay_of
from tests.support.sending import pointers_of
from tests.support.waiting import wait_until

PATH = "/v1/audit"
EXPORT = f"{PATH}/export"
_MEMBERS = {"id", "actor", "action", "object_id", "project_id", "before", "after"} | {
    "address",
    "request_id",
    "created_at",
}


def _auditor(app: Flask, context: Context, tenant: Tenant, *project_ids: str) -> ApiClient:
    return api_with(app, context, tenant, NewToken(role=Role.AUDITOR, project_ids=project_ids or None))


def _exported(api: ApiClient, **query: str) -> list[dict[str, Any]]:
    """The entries of a whole export."""
    response = api.get(EXPORT, **query)
    assert response.status_code == 200, response.text
    *lines, last = response.text.splitlines()
    assert json.loads(last) == {"complete": True, "entries": len(lines)}
    return [json.loads(line) for line in lines]


def _fill(context: Context, tenant: Tenant, entries: int, *, width: int = 1) -> None:
    execute(
        context,
        "INSERT INTO audit_entries (workspace_id, actor, action, object_id, after)"
        " SELECT :id, 'cli', 'test.fill', 'n' || n, jsonb_build_object('text', repeat('x', :width))"
        " FROM generate_series(1, :entries) AS n",
        id=tenant.workspace_row,
        entries=entries,
        width=width,
    )


def _operator(context: Context, tenant: Tenant) -> Operator:
    return authenticate(f"Bearer {tenant.token}", context.credentials, context.database)


class TestEntry:
    def test_it_says_who_did_what_to_which_object_from_where_and_in_which_request(
        self, api: ApiClient, alice: Tenant
    ) -> None:
        headers = {"X-Request-ID": "ticket-4711", "If-Match": "*"}
        api.patch(f"/v1/keys/{alice.key_id}", {"label": "till 7"}, headers=headers)

        (entry,) = api.all_of(PATH)

        assert set(entry) == _MEMBERS
        assert entry["id"].startswith("aud_")
        assert MOMENT.fullmatch(entry.pop("created_at"))
        assert {name: entry[name] for name in _MEMBERS - {"id", "created_at"}} == {
            "actor": alice.token_id,
            "action": "source_key.update",
            "object_id": alice.key_id,
            "project_id": alice.project_id,
            "before": {"label": ""},
            "after": {"label": "till 7"},
            "address": "127.0.0.1",
            "request_id": "ticket-4711",
        }

    def test_it_can_be_read_by_its_id_and_looks_as_in_the_list(self, api: ApiClient, alice: Tenant) -> None:
        api.patch(f"/v1/projects/{alice.project_id}", {"description": "x\u2028y\nz"})
        (entry,) = api.all_of(PATH)

        assert api.get(f"{PATH}/{entry['id']}").json == entry
        assert _exported(api) == [entry]

    @pytest.mark.parametrize("entry_id", [f"aud_{UNKNOWN_ID}", "1", "0", "x" * 1_000, "%00"])
    def test_any_other_id_is_not_found(self, api: ApiClient, entry_id: str) -> None:
        assert api.get(f"{PATH}/{entry_id}").status_code == 404

    def test_what_concerns_the_workspace_as_a_whole_has_no_project(self, api: ApiClient) -> None:
        api.patch("/v1/workspace", {"retention_days": 90})
        api.post("/v1/tokens", {"role": "auditor"})

        assert [(each["action"], each["project_id"]) for each in api.all_of(PATH)] == [
            ("management_token.issue", None),
            ("workspace.update", None),
        ]

    def test_of_two_changes_that_waited_for_each_other_the_one_made_last_is_listed_last(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        author = Author(workspace_id=alice.workspace_row, actor="cli")
        first, second = (
            Mutation(action="test.change", object_id=name, project_row=None, after={}) for name in ("first", "second")
        )
        with context.database.transaction(alice.workspace_row) as began_first:
            began_first.execute(text("SELECT now()"))
            with context.database.transaction(alice.workspace_row) as began_second:
                record(began_second, author, first)
            record(began_first, author, second)

        assert [each["object_id"] for each in api.all_of(PATH)] == ["second", "first"]
        assert [each["object_id"] for each in _exported(api)] == ["first", "second"]

    def test_it_stays_when_its_project_is_archived(self, api: ApiClient, alice: Tenant) -> None:
        api.delete(f"/v1/projects/{alice.project_id}")

        (entry,) = api.all_of(PATH)

        assert (entry["action"], entry["project_id"]) == ("project.archive", alice.project_id)
        assert entry["before"] == {"archived_at": None}
        assert MOMENT.fullmatch(entry["after"]["archived_at"])


class TestEveryChange:
    """Over all operations that the product has, so that a future one cannot forget it."""

    # What each takes; the others take none. A body that changes something.
    _BODIES: dict[str, dict[str, Any]] = {  # noqa: RUF012 - read only
        "projects.create_project": {"name": "x"},
        "projects.update_project": {"name": "y"},
        "environments.create_environment": {"name": "x"},
        "environments.update_environment": {"name": "y"},
        "sources.create_source": {"name": "x", "type": "erp"},
        "sources.update_source": {"name": "y"},
        "keys.issue_key": {"label": "x", "expires_at": "2099-01-01T00:00:00Z"},
        "keys.update_key": {"label": "x"},
        "tokens.issue_token": {"role": "auditor", "expires_at": "2099-01-01T00:00:00Z"},
        "workspace.update_workspace": {"name": "z"},
        "consumers.put_consumer": {"project_id": ""},
        "consumers.seek_consumer": {"to": "start"},
        "exports.create_export": {"project_id": "", "format": "csv"},
        "replays.create_replay": {"query": {"project_id": ""}, "target_source_id": ""},
    }
    # What a worker says of its own work, some times in a second, and no operator's decision: a log of changes in which
    # one cannot be found among them is of no use. `committed_at` says when the last one was.
    _UNRECORDED = frozenset({"consumers.commit_consumer"})

    def test_over_the_api_leaves_an_entry_with_before_and_after_and_no_secret(
        self, app: Flask, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        other = api.made("/v1/tokens", {"role": "auditor"})["id"]
        replay_id = replay_of(api, alice)
        api.post(f"/v1/sources/{alice.source_id}/disable")
        ids = {
            "project_id": alice.project_id,
            "environment_id": alice.environment_id,
            "source_id": alice.source_id,
            "key_id": alice.key_id,
            "token_id": other,
            "name": "billing",
            "export_id": api.made("/v1/exports", {"project_id": alice.project_id})["id"],
            "replay_id": replay_id,
        }
        operations = {each: getattr(view, "operation", None) for each, view in app.view_functions.items()}
        changing = [
            (operation.method, rule)
            for rule in app.url_map.iter_rules()
            if (operation := operations[rule.endpoint]) is not None
            if operation.is_change
            # Does nothing to what is in use; test_archiving.py holds its entries.
            if not rule.rule.endswith("/restore")
            if rule.endpoint not in self._UNRECORDED
        ]
        # What lives on comes before what ends, and children before their parents.
        changing.sort(key=lambda each: self._place(*each))
        assert len(changing) >= 17

        for method, rule in changing:
            request = f"{method}-{rule.endpoint}"
            headers = {"X-Request-ID": request} | ({"If-Match": "*"} if method == "PATCH" else {})
            path = rule.rule
            for name in rule.arguments:
                path = path.replace(f"<{name}>", ids[name])
            body = named_in(self._BODIES.get(rule.endpoint), ids) if method != "DELETE" else None
            assert api.call(method, path, body, headers=headers).status_code < 300, request

            entries = [each for each in _exported(api) if each["request_id"] == request]

            assert entries, request
            for entry in entries:
                assert entry["after"], request
                is_new = entry["action"].endswith((".create", ".issue"))
                assert set(entry["before"]) == (set() if is_new else set(entry["after"])), request
        self._holds_no_secret(context, alice)

    @staticmethod
    def _place(method: str, rule: Rule) -> tuple[bool, int]:
        ends = ["enable", "create_replay", "disable", "revoke_key", "revoke_token"]
        archives = ["archive_source", "archive_environment", "archive_project"]
        view = rule.endpoint.partition(".")[2]
        place = next((n for n, end in enumerate([*ends, *archives]) if view.startswith(end)), -1)
        return method == "DELETE", place

    @staticmethod
    def _holds_no_secret(context: Context, tenant: Tenant) -> None:
        statement = "SELECT t::text AS entry FROM audit_entries t WHERE workspace_id = :id"
        for row in rows(context, statement, id=tenant.workspace_row):
            for secret in ("secret", "hash", "argon2", "lrb_"):
                assert secret not in row.entry

    def test_over_the_shell_leaves_one_too(self, context: Context, app: Flask) -> None:
        database = context.database
        workspace, issued = create_workspace(database, context.credentials, "Acme")
        other = issue_workspace_token(database, context.credentials, workspace.id, "second", Role.AUDITOR)
        set_workspace_status(database, workspace.id, WorkspaceStatus.SUSPENDED)
        set_workspace_status(database, workspace.id, WorkspaceStatus.ACTIVE)
        set_workspace_limit(database, workspace.id, 5)

        entries = _exported(ApiClient(app.test_client(), other.token))

        assert [(each["action"], each["object_id"]) for each in entries] == [
            ("workspace.create", workspace.id),
            ("management_token.issue", issued.id),
            ("management_token.issue", other.id),
            ("workspace.suspend", workspace.id),
            ("workspace.resume", workspace.id),
            ("workspace.limit", workspace.id),
        ]
        assert {(each["actor"], each["address"], each["request_id"]) for each in entries} == {("cli", None, None)}
        assert [(each["before"], each["after"]) for each in entries[3:]] == [
            ({"status": "active"}, {"status": "suspended"}),
            ({"status": "suspended"}, {"status": "active"}),
            ({"events_per_second": None}, {"events_per_second": 5}),
        ]

    def test_of_a_credentials_own_making_leaves_none(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        """That it was used, and that its hash took new parameters, is no operator's doing."""
        execute(context, "UPDATE management_tokens SET last_used_at = NULL WHERE public_id = :id", id=alice.token_id)

        assert api.all_of(PATH) == []
        used = rows(context, "SELECT last_used_at FROM management_tokens WHERE public_id = :id", id=alice.token_id)
        assert used[0].last_used_at is not None


class TestFilter:
    @pytest.fixture(name="actions")
    def _actions_made(self, api: ApiClient, bob: ApiClient, alice: Tenant) -> list[str]:
        """The actions, newest first, after the token that Bob was issued."""
        api.patch(f"/v1/keys/{alice.key_id}", {"label": "a"})
        api.patch(f"/v1/sources/{alice.source_id}", {"description": "b"})
        bob.post(f"/v1/keys/{alice.key_id}/revoke")
        return ["source_key.revoke", "source.update", "source_key.update", "management_token.issue"]

    def _actions(self, api: ApiClient, **query: str) -> list[str]:
        """The same in pages of one as in one export."""
        listed = [each["action"] for each in api.all_of(PATH, limit=1, **query)]
        assert listed == [each["action"] for each in reversed(_exported(api, **query))]
        return listed

    def test_none_is_all_newest_first(self, api: ApiClient, actions: list[str]) -> None:
        assert self._actions(api) == actions

    def test_by_object(self, api: ApiClient, alice: Tenant, actions: list[str]) -> None:
        assert self._actions(api, object_id=alice.key_id) == ["source_key.revoke", "source_key.update"]
        assert self._actions(api, object_id="src_demo") == []

    def test_by_actor(self, api: ApiClient, alice: Tenant, actions: list[str]) -> None:
        assert self._actions(api, actor=alice.token_id) == actions[1:]
        assert self._actions(api, actor="cli") == []

    def test_by_whole_action_or_by_kind_of_object(self, api: ApiClient, actions: list[str]) -> None:
        assert self._actions(api, action="source_key.revoke") == ["source_key.revoke"]
        assert self._actions(api, action="source_key.*") == ["source_key.revoke", "source_key.update"]
        assert self._actions(api, action="source.*") == ["source.update"]
        # The underscore is no wildcard of LIKE's.
        assert self._actions(api, action="sourc_.*") == []

    def test_by_time_from_is_within_and_to_is_not(self, api: ApiClient, actions: list[str]) -> None:
        moments = [each["created_at"] for each in api.all_of(PATH)]

        assert self._actions(api, **{"from": moments[2]}) == actions[:3]
        assert self._actions(api, to=moments[2]) == actions[3:]
        assert self._actions(api, **{"from": moments[2], "to": moments[0]}) == actions[1:3]
        shifted = datetime.fromisoformat(moments[2]).astimezone().isoformat()
        assert self._actions(api, **{"from": shifted}) == actions[:3]

    def test_all_at_once(self, api: ApiClient, alice: Tenant, actions: list[str]) -> None:
        soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        query = {"object_id": alice.key_id, "actor": alice.token_id, "action": "source_key.*", "to": soon}

        assert self._actions(api, **query) == ["source_key.update"]

    @pytest.mark.parametrize(
        ("query", "pointer"),
        [
            ({"object": "x"}, "/object"),
            ({"begin": "2026-01-01T00:00:00Z"}, "/begin"),
            ({"object_id": "a b"}, "/object_id"),
            ({"actor": ""}, "/actor"),
            ({"action": "revoke"}, "/action"),
            ({"action": "*"}, "/action"),
            ({"action": "*.revoke"}, "/action"),
            ({"action": "source_key.rev*"}, "/action"),
            ({"action": "source_key.*\n"}, "/action"),
            ({"action": "\0"}, "/action"),
            ({"from": "yesterday"}, "/from"),
            ({"from": "2026-01-01T00:00:00"}, "/from"),
            ({"to": "0001-01-01T00:00:00+14:00"}, "/to"),
            ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-02T00:00:00Z"}, "/to"),
            ({"from": ["2026-01-02T00:00:00Z", "2026-01-02T00:00:00Z"]}, "/from"),
        ],
    )
    def test_what_is_wrong_or_unknown_is_refused_by_name(
        self, api: ApiClient, query: dict[str, Any], pointer: str
    ) -> None:
        for path in (PATH, EXPORT):
            refused = api.get(path, **query)
            assert refused.status_code == 422, query
            assert pointers_of(refused) == {pointer}

    def test_an_export_has_no_pages(self, api: ApiClient) -> None:
        assert pointers_of(api.get(EXPORT, limit=5, cursor="x")) == {"/limit", "/cursor"}

    def test_a_cursor_belongs_to_its_filter(self, api: ApiClient, actions: list[str]) -> None:
        cursor = (api.get(PATH, limit=1).json or {})["next_cursor"]

        assert api.get(PATH, cursor=cursor).status_code == 200
        assert pointers_of(api.get(PATH, cursor=cursor, action="source.*")) == {"/cursor"}


class TestReach:
    @pytest.fixture(name="second")
    def _second(self, api: ApiClient, alice: Tenant) -> str:
        """A second project, with a change in each and one of the workspace's."""
        project = str(api.made("/v1/projects", {"name": "second"})["id"])
        api.patch(f"/v1/projects/{alice.project_id}", {"description": "first"})
        api.patch("/v1/workspace", {"name": "Acme"})
        return project

    def test_a_token_for_some_projects_reads_what_happened_in_these(
        self, app: Flask, api: ApiClient, context: Context, alice: Tenant, second: str
    ) -> None:
        limited = _auditor(app, context, alice, alice.project_id)
        theirs = [each for each in api.all_of(PATH) if each["project_id"] != alice.project_id]
        assert {each["project_id"] for each in theirs} == {second, None}

        assert [each["action"] for each in limited.all_of(PATH)] == ["project.update"]
        assert [each["action"] for each in _exported(limited)] == ["project.update"]
        for each in theirs:
            assert limited.get(f"{PATH}/{each['id']}").status_code == 404
            assert limited.get(PATH, object_id=each["object_id"]).json == {"data": [], "next_cursor": None}

    def test_another_tokens_cursor_opens_nothing_more(
        self, app: Flask, api: ApiClient, context: Context, alice: Tenant, second: str
    ) -> None:
        limited = _auditor(app, context, alice, alice.project_id)
        cursor = (api.get(PATH, limit=1).json or {})["next_cursor"]

        page = limited.get(PATH, cursor=cursor).json or {}

        assert [each["action"] for each in page["data"]] == ["project.update"]

    def test_it_goes_on_when_the_project_is_archived(
        self, app: Flask, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        limited = _auditor(app, context, alice, alice.project_id)
        api.delete(f"/v1/projects/{alice.project_id}")

        assert [each["action"] for each in limited.all_of(PATH)] == ["project.archive"]

    def test_a_stranger_sees_none_of_it(self, api: ApiClient, stranger: ApiClient, alice: Tenant, second: str) -> None:
        for entry in api.all_of(PATH):
            assert stranger.get(f"{PATH}/{entry['id']}").status_code == 404
        assert stranger.all_of(PATH) == _exported(stranger) == []
        assert stranger.all_of(PATH, object_id=alice.project_id, actor=alice.token_id) == []


class TestExport:
    def test_it_is_a_file_with_one_entry_a_line_and_a_last_line_that_says_it_is_whole(self, api: ApiClient) -> None:
        api.patch("/v1/workspace", {"name": "Acme"})

        response = api.get(EXPORT)

        assert response.mimetype == "application/x-ndjson"
        assert response.headers["Content-Disposition"] == 'attachment; filename="audit.ndjson"'
        assert response.headers["Cache-Control"] == "no-store"
        assert response.data.endswith(b'\n{"complete": true, "entries": 1}\n')

    def test_an_empty_one_says_so(self, api: ApiClient) -> None:
        assert api.get(EXPORT).data == b'{"complete": true, "entries": 0}\n'

    def test_it_holds_every_entry_once_oldest_first_over_many_chunks(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        _fill(context, alice, 1_203)

        assert [each["object_id"] for each in _exported(api)] == [f"n{n}" for n in range(1, 1_204)]

    @pytest.mark.parametrize(("entries", "chunks"), [(0, []), (1, [1]), (3, [3]), (4, [3, 1]), (6, [3, 3])])
    def test_chunks_end_where_the_entries_do(
        self, context: Context, alice: Tenant, entries: int, chunks: list[int]
    ) -> None:
        _fill(context, alice, entries)

        found = export_entries(context.database, _operator(context, alice), EntryFilter(), chunk_rows=3)

        assert [len(chunk) for chunk in found] == chunks

    def test_it_ends_though_a_writer_is_faster_than_it_reads(self, context: Context, alice: Tenant) -> None:
        _fill(context, alice, 10)
        read = 0
        for chunk in islice(
            export_entries(context.database, _operator(context, alice), EntryFilter(), chunk_rows=2), 50
        ):
            read += len(chunk)
            _fill(context, alice, 10)

        assert read == 10

    def test_it_holds_no_connection_between_two_chunks(self, context: Context, alice: Tenant) -> None:
        _fill(context, alice, 10)
        waiting = export_entries(context.database, _operator(context, alice), EntryFilter(), chunk_rows=2)

        next(waiting)

        assert context.database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        waiting.close()  # type: ignore[attr-defined]

    def test_a_token_revoked_meanwhile_reads_no_further(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        _fill(context, alice, 10)
        chunks = export_entries(context.database, _operator(context, alice), EntryFilter(), chunk_rows=2)
        next(chunks)

        api.post(f"/v1/tokens/{alice.token_id}/revoke")

        with pytest.raises(InvalidManagementToken):
            next(chunks)

    def test_a_failure_before_the_first_line_has_a_status(
        self, api: ApiClient, settings: Settings, alice: Tenant
    ) -> None:
        with psycopg.connect(settings.admin_database_url) as owner:
            owner.execute("LOCK TABLE audit_entries IN ACCESS EXCLUSIVE MODE")
            assert api.get(EXPORT).status_code == 503


class TestBrokenExport:
    """On a real server: what a client sees of an export that cannot go on."""

    @pytest.fixture(name="begun")
    def _begun(self, live: LiveServer, context: Context, alice: Tenant) -> Iterator[HTTPConnection]:
        # More than sockets hold: the server has to wait for the reader.
        _fill(context, alice, 20_000, width=1_000)
        connection = HTTPConnection("127.0.0.1", live.port, timeout=30)
        connection.request("GET", EXPORT, headers={"Authorization": f"Bearer {alice.token}"})
        yield connection
        connection.close()

    def _lines(self, connection: HTTPConnection, between: Callable[[], None]) -> list[bytes]:
        response = connection.getresponse()
        assert response.status == 200
        first = response.readline()
        between()
        try:
            return [first, *response.read().splitlines()]
        except IncompleteRead as broken:  # not under granian, which ends the answer as if all were well
            return [first, *broken.partial.splitlines()]

    @pytest.mark.slow
    def test_read_to_its_end_it_is_whole(self, begun: HTTPConnection) -> None:
        *entries, last = self._lines(begun, lambda: None)

        assert json.loads(last) == {"complete": True, "entries": len(entries)} == {"complete": True, "entries": 20_000}

    def test_its_last_line_says_that_it_is_not_whole(
        self, begun: HTTPConnection, context: Context, alice: Tenant
    ) -> None:
        *entries, last = self._lines(
            begun,
            lambda: execute(
                context, "UPDATE management_tokens SET revoked_at = now() WHERE public_id = :id", id=alice.token_id
            ),
        )

        assert 0 < len(entries) < 20_000
        assert json.loads(last) == {"complete": False, "entries": len(entries)}

    @pytest.mark.slow
    def test_for_a_reader_that_reads_nothing_little_is_kept(
        self, begun: HTTPConnection, live: LiveServer, context: Context, alice: Tenant
    ) -> None:
        """Of 85 MB: a chunk or two, beside what proving a token takes (19 MB) and what sockets hold."""
        begun.close()
        _fill(context, alice, 20_000, width=3_000)
        begun.connect()
        begun.request("GET", EXPORT, headers={"Authorization": f"Bearer {alice.token}"})
        processes = [psutil.Process(live.process.pid), *psutil.Process(live.process.pid).children(recursive=True)]
        before = sum(process.memory_info().rss for process in processes)

        spent: deque[float] = deque(maxlen=20)

        def is_at_rest() -> bool:
            spent.append(sum(sum(process.cpu_times()[:2]) for process in processes))
            return len(spent) == spent.maxlen and len(set(spent)) == 1

        response = begun.getresponse()
        wait_until(is_at_rest)
        assert sum(process.memory_info().rss for process in processes) - before < 40 * 1024 * 1024
        assert len(response.read()) > 80 * 1024 * 1024

    def test_the_server_goes_on(self, begun: HTTPConnection, live: LiveServer) -> None:
        begun.close()

        wait_until(lambda: live.request("GET", "/readyz").status == 200)
