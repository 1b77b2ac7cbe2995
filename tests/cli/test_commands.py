"""The operator's shell: what each command does, and how it fails."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Row

from app.config import Settings
from app.context import EXTENSION, Context
from app.factory import create_app
from app.identifiers import random_text
from app.management.keys.queries import Staleness, report_keys
from tests.support.databases import close, fresh_database
from tests.support.live import environment_of, free_port
from tests.support.operating import api_of
from tests.support.people import Tenant, execute, issue_key, rows, source_of
from tests.support.sending import error_of, send

Shell = Callable[..., Result]


def _shell_of(app: Flask) -> Shell:
    return lambda *arguments: app.test_cli_runner().invoke(args=arguments)


@pytest.fixture(name="shell")
def _shell(app: Flask) -> Shell:
    return _shell_of(app)


def _said(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def _refused(result: Result) -> str:
    """The one line that says why."""
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


class TestWorkspaceCreate:
    def test_it_prints_the_id_and_a_token_that_opens_the_workspace(self, shell: Shell, client: FlaskClient) -> None:
        lines = dict(line.rsplit(None, 1) for line in _said(shell("workspace", "create", "Alice's")).splitlines())

        assert set(lines) == {"workspace id", "token id", "management token"}
        assert lines["workspace id"].startswith("ws_")
        headers = {"Authorization": f"Bearer {lines['management token']}"}
        assert client.get("/v1/projects", headers=headers).json == {"data": [], "next_cursor": None}

    def test_a_script_gets_one_json_object(self, shell: Shell, client: FlaskClient) -> None:
        made = json.loads(_said(shell("workspace", "create", "Alice's", "--json")))

        assert set(made) == {"workspace_id", "token_id", "management_token"}
        headers = {"Authorization": f"Bearer {made['management_token']}"}
        assert client.get("/v1/projects", headers=headers).status_code == 200

    def test_another_one_of_the_same_name_is_made_and_pointed_out(self, shell: Shell) -> None:
        name = f"Acme {random_text(8)}"
        first, second = (shell("workspace", "create", name, "--json") for _ in range(2))

        assert "more of this name" not in first.stderr
        assert json.loads(_said(first))["workspace_id"] in second.stderr
        assert f"workspace suspend {json.loads(_said(second))['workspace_id']}" in second.stderr

    def test_the_token_is_not_kept(self, shell: Shell, context: Context) -> None:
        made = json.loads(_said(shell("workspace", "create", "Alice's", "--json")))

        secret = made["management_token"].split("_")[3]
        kept = rows(context, "SELECT t::text FROM management_tokens t WHERE public_id = :id", id=made["token_id"])
        assert len(kept) == 1
        assert secret not in str(kept)

    @pytest.mark.parametrize("name", ["", " ", " a", "a\nb", "\u202e", "x" * 201, "\udcff"])
    def test_a_name_that_is_none_is_refused(self, shell: Shell, name: str) -> None:
        assert "Must " in _refused(shell("workspace", "create", name))


class TestWorkspaceSuspend:
    def test_a_suspended_workspace_stores_nothing_until_it_is_resumed(
        self, shell: Shell, client: FlaskClient, alice: Tenant
    ) -> None:
        assert send(client, alice).status_code == 201

        assert _said(shell("workspace", "suspend", alice.workspace_id)) == f"{alice.workspace_id} is suspended\n"
        refused = send(client, alice)
        assert (refused.status_code, error_of(refused)["code"]) == (403, "workspace_suspended")

        assert _said(shell("workspace", "resume", alice.workspace_id)) == f"{alice.workspace_id} is active\n"
        assert send(client, alice).status_code == 201

    @pytest.mark.parametrize("verb", ["suspend", "resume"])
    def test_repeating_it_says_the_same_and_changes_nothing(
        self, shell: Shell, context: Context, alice: Tenant, verb: str
    ) -> None:
        def state() -> object:
            return rows(context, "SELECT w::text FROM workspaces w WHERE id = :id", id=alice.workspace_row)

        first, before = _said(shell("workspace", verb, alice.workspace_id)), state()

        assert (_said(shell("workspace", verb, alice.workspace_id)), state()) == (first, before)

    @pytest.mark.parametrize("workspace_id", ["ws_nobody", "", "x" * 1_000, "\udcff", "'; --"])
    def test_a_missing_workspace_is_refused(self, shell: Shell, workspace_id: str) -> None:
        for verb in ("suspend", "resume"):
            assert "no workspace with this id" in _refused(shell("workspace", verb, workspace_id))


class TestWorkspaceLimit:
    def test_a_limit_is_set_lifted_and_written_down(self, shell: Shell, context: Context, alice: Tenant) -> None:
        def limit(*arguments: str) -> str:
            return _said(shell("workspace", "limit", alice.workspace_id, *arguments))

        for _ in range(2):
            said = limit("--events-per-second", "500")
            assert said == f"{alice.workspace_id} may send 500 events per second\n"
        assert [row.keys_limit for row in _limits(context, alice)] == [500]
        assert limit("--default") == f"{alice.workspace_id} may send what the default says\n"
        assert [row.keys_limit for row in _limits(context, alice)] == [None]

        entries = rows(
            context,
            "SELECT action, after FROM audit_entries WHERE object_id = :id ORDER BY id",
            id=alice.workspace_id,
        )
        assert entries == [
            ("workspace.limit", {"events_per_second": 500}),
            ("workspace.limit", {"events_per_second": None}),
        ]

    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            ("--events-per-second", "0"),
            ("--events-per-second", "-1"),
            ("--events-per-second", "many"),
            ("--events-per-second", "99999999999999999999"),
            ("--events-per-second", "5", "--default"),
        ],
    )
    def test_what_is_no_limit_is_refused(
        self, shell: Shell, context: Context, alice: Tenant, arguments: tuple[str, ...]
    ) -> None:
        assert shell("workspace", "limit", alice.workspace_id, *arguments).exit_code == 2
        assert [row.keys_limit for row in _limits(context, alice)] == [None]

    def test_a_missing_workspace_is_refused(self, shell: Shell) -> None:
        assert "no workspace with this id" in _refused(shell("workspace", "limit", "ws_nobody", "--default"))


def _limits(context: Context, tenant: Tenant) -> list[Row[Any]]:
    statement = "SELECT events_per_second AS keys_limit FROM workspaces WHERE id = :id"
    return rows(context, statement, id=tenant.workspace_row)


def test_the_list_shows_each_workspaces_status(shell: Shell, alice: Tenant, charlie: Tenant) -> None:
    shell("workspace", "suspend", charlie.workspace_id)

    listed = {line.split("\t")[0]: line.split("\t")[1] for line in _said(shell("workspace", "list")).splitlines()}

    assert listed[alice.workspace_id] == "active"
    assert listed[charlie.workspace_id] == "suspended"


class TestTokenIssue:
    def test_it_prints_a_further_token_of_the_workspace(
        self, shell: Shell, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        issued = json.loads(_said(shell("token", "issue", alice.workspace_id, "--label", "deploy", "--json")))

        headers = {"Authorization": f"Bearer {issued['management_token']}"}
        assert client.get(f"/v1/projects/{alice.project_id}", headers=headers).status_code == 200
        label = rows(context, "SELECT label FROM management_tokens WHERE public_id = :id", id=issued["token_id"])
        assert label == [("deploy",)]

    def test_it_refuses_a_workspace_or_a_label_that_is_none(self, shell: Shell, alice: Tenant) -> None:
        assert "no workspace" in _refused(shell("token", "issue", "ws_nobody"))
        assert "Must " in _refused(shell("token", "issue", alice.workspace_id, "--label", "a\tb"))


class TestRevoke:
    def test_it_ends_a_token_of_any_workspace(
        self, shell: Shell, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        assert _said(shell("token", "revoke", alice.token_id)) == f"{alice.token_id} is revoked\n"

        assert client.get("/v1/workspace", headers=alice.bearer).status_code == 401
        assert _said(shell("token", "revoke", alice.token_id)) == f"{alice.token_id} is revoked\n"
        entries = rows(context, "SELECT actor, action FROM audit_entries WHERE object_id = :id", id=alice.token_id)
        assert entries == [("cli", "management_token.revoke")]

    def test_it_ends_a_key_of_any_workspace(
        self, shell: Shell, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        assert _said(shell("key", "revoke", alice.key_id)) == f"{alice.key_id} is revoked\n"

        assert send(client, alice).status_code == 401
        entries = rows(context, "SELECT actor, action FROM audit_entries WHERE object_id = :id", id=alice.key_id)
        assert entries == [("cli", "source_key.revoke")]

    def test_it_says_how_an_id_is_found_in_what_has_leaked(self, shell: Shell, alice: Tenant) -> None:
        for wrong in (alice.key, "key_nobody", "\0", ""):
            assert "lrb_sk_<id>_" in _refused(shell("key", "revoke", wrong))
            assert "lrb_mt_<id>_" in _refused(shell("token", "revoke", wrong))


class TestKeyReport:
    @staticmethod
    def _age(context: Context, tenant: Tenant, days: int) -> None:
        statement = "UPDATE source_keys SET created_at = now() - interval '1 day' * :days WHERE id = :id"
        execute(context, statement, days=days, id=tenant.key_row)

    @staticmethod
    def _end(context: Context, tenant: Tenant, days: int) -> None:
        statement = "UPDATE source_keys SET expires_at = now() + interval '1 day' * :days WHERE id = :id"
        execute(context, statement, days=days, id=tenant.key_row)

    @staticmethod
    def _reported(shell: Shell, *options: str) -> list[str]:
        return [json.loads(line)["key_id"] for line in _said(shell("key", "report", "--json", *options)).splitlines()]

    def test_a_person_gets_a_table_of_all_workspaces(
        self, app: Flask, shell: Shell, context: Context, alice: Tenant, charlie: Tenant
    ) -> None:
        api_of(app, alice).patch(f"/v1/keys/{alice.key_id}", {"label": "the till at the back door"})
        execute(context, "UPDATE source_keys SET created_at = '2020-05-01T23:59Z' WHERE id = :id", id=alice.key_row)
        execute(context, "UPDATE source_keys SET expires_at = '2024-02-29T12:00Z' WHERE id = :id", id=charlie.key_row)

        heading, *lines = _said(shell("key", "report")).splitlines()

        (mine,) = (line for line in lines if alice.key_id in line)
        (theirs,) = (line for line in lines if charlie.key_id in line)
        assert heading.startswith("WORKSPACE  ")
        for column, cell in {
            "PROJECT": "shop",
            "SOURCE": "checkout",
            "KEY": alice.key_id,
            "LABEL": "the till at the…",
            "CREATED": "2020-05-01",
            "LAST USED": "never",
            "EXPIRES": "never",
            "STATE": "active",
        }.items():
            assert mine[heading.index(column) :].startswith(cell), column
        assert theirs.split()[-2:] == ["2024-02-29", "expired"]

    def test_a_key_that_was_rotated_does_not_end_too_soon(self, app: Flask, shell: Shell, alice: Tenant) -> None:
        successor = api_of(app, alice).made(f"/v1/keys/{alice.key_id}/rotate", {"grace_seconds": 0})["id"]

        lines = _said(shell("key", "report", "--expires-within-days", "30", "--json"))

        assert alice.key_id not in lines
        assert successor not in lines

    def test_a_script_gets_one_object_a_line_with_all_of_it(
        self, app: Flask, shell: Shell, context: Context, alice: Tenant
    ) -> None:
        label = "the till at the back door"
        api_of(app, alice).patch(f"/v1/keys/{alice.key_id}", {"label": label})
        execute(context, "UPDATE source_keys SET created_at = '2020-05-01T23:59Z' WHERE id = :id", id=alice.key_row)

        lines = [json.loads(line) for line in _said(shell("key", "report", "--json")).splitlines()]

        (mine,) = (line for line in lines if line["key_id"] == alice.key_id)
        workspace = rows(context, "SELECT name FROM workspaces WHERE id = :id", id=alice.workspace_row)[0].name
        assert mine == {
            "workspace_id": alice.workspace_id,
            "workspace": workspace,
            "project_id": alice.project_id,
            "project": "shop",
            "source_id": alice.source_id,
            "source": "checkout",
            "key_id": alice.key_id,
            "label": label,
            "created_at": "2020-05-01T23:59:00Z",
            "last_used_at": None,
            "expires_at": None,
            "state": "active",
        }

    def test_without_an_option_it_reports_what_is_unused_for_90_days_or_over_within_30(
        self, shell: Shell, context: Context, tenant: Callable[[], Tenant]
    ) -> None:
        unused, used, ending, lasting = (tenant() for _ in range(4))
        self._age(context, unused, 90)
        self._age(context, used, 90)
        execute(context, "UPDATE source_keys SET last_used_at = now() WHERE id = :id", id=used.key_row)
        self._end(context, ending, 30)
        self._end(context, lasting, 31)

        reported = self._reported(shell)

        assert unused.key_id in reported
        assert ending.key_id in reported
        assert not {used.key_id, lasting.key_id} & set(reported)

    def test_with_one_option_it_reports_that_alone(
        self, shell: Shell, context: Context, alice: Tenant, charlie: Tenant
    ) -> None:
        self._age(context, alice, 8)
        self._end(context, charlie, 6)

        unused = self._reported(shell, "--unused-for-days", "7")
        ending = self._reported(shell, "--expires-within-days", "7")
        both = self._reported(shell, "--unused-for-days", "7", "--expires-within-days", "7")

        keys = (alice.key_id, charlie.key_id)
        assert [[key in reported for key in keys] for reported in (unused, ending, both)] == [
            [True, False],
            [False, True],
            [True, True],
        ]
        assert len(both) == len(set(both))

    def test_a_key_that_is_revoked_or_archived_from_above_is_not_stale(
        self, app: Flask, shell: Shell, context: Context, alice: Tenant, tenant: Callable[[], Tenant]
    ) -> None:
        api_of(app, alice).post(f"/v1/keys/{alice.key_id}/revoke")
        gone = [alice]
        for path in ("sources/{0.source_id}", "environments/{0.environment_id}", "projects/{0.project_id}"):
            gone.append(tenant())
            assert api_of(app, gone[-1]).delete(f"/v1/{path.format(gone[-1])}").status_code == 204
        for each in gone:
            self._age(context, each, 100)
            self._end(context, each, 1)

        assert not {each.key_id for each in gone} & set(self._reported(shell))

    def test_it_comes_in_chunks_and_nothing_is_missing_or_there_twice(
        self, context: Context, tenant: Callable[[], Tenant]
    ) -> None:
        soon = datetime.now(UTC) + timedelta(days=2)
        stale = [
            issue_key(context, source_of(context, each), expires_at=soon)[1]
            for each in (tenant() for _ in range(2))
            for _ in range(3)
        ]
        asked = Staleness(expires_within_days=3)

        by_one, by_three, whole = (
            [key.key_id for key in report_keys(context.database, asked, chunk_rows=rows)] for rows in (1, 3, 500)
        )

        assert by_one == by_three == whole
        assert [key for key in whole if key in stale] == stale

    @pytest.mark.parametrize("option", ["--unused-for-days", "--expires-within-days"])
    @pytest.mark.parametrize("days", ["0", "3651", "soon", "-1"])
    def test_what_is_no_number_of_days_is_refused(self, shell: Shell, option: str, days: str) -> None:
        assert shell("key", "report", option, days).exit_code == 2


class TestTrouble:
    @pytest.fixture(name="lonely")
    def _lonely(self, settings: Settings) -> Shell:
        url = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
        return _shell_of(create_app(replace(settings, database_url=url, admin_database_url=url)))

    @pytest.mark.parametrize(
        "arguments",
        [
            ("migrate",),
            ("workspace", "list"),
            ("workspace", "create", "x"),
            ("token", "issue", "ws_1"),
            ("key", "report"),
            ("key", "report", "--json"),
        ],
    )
    def test_a_database_that_is_away_is_one_line(self, lonely: Shell, arguments: tuple[str, ...]) -> None:
        assert "refused" in _refused(lonely(*arguments))

    def test_a_schema_that_is_not_there_is_one_line(self, server_url: str) -> None:
        with fresh_database(server_url) as settings:
            app = create_app(settings)
            assert "migrate" in _refused(_shell_of(app)("workspace", "list"))
            close(app.extensions[EXTENSION].database)


@pytest.mark.slow
def test_a_new_installation_begins_at_the_shell(server_url: str, checkout: Path) -> None:
    """What an operator types: migrate twice, then the first workspace."""
    with fresh_database(server_url) as settings:

        def flask(*arguments: str) -> str:
            command = [sys.executable, "-m", "flask", "--app", "wsgi", *arguments]
            done = subprocess.run(
                command, cwd=checkout, env=environment_of(settings), capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        assert flask("migrate") == flask("migrate")
        made = json.loads(flask("workspace", "create", "First", "--json"))
        (listed,) = flask("workspace", "list").splitlines()
        assert listed.split("\t")[0] == made["workspace_id"]
        assert listed.split("\t")[3] == "First"
