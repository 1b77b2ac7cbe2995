"""Export files over the API: who may have one made, what is said of it, and how its file is fetched."""

import base64
import gzip
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.context import EXTENSION, Context
from app.counting.reads import ANSWERED
from app.events.exports import domain
from app.management.common.operators import Role
from app.management.tokens.domain import NewToken
from tests.support.counted_reads import Amounts, counted_reads
from tests.support.exporting import add_export, export_of, file_of, row_of, turn_of, work_off
from tests.support.live import Answer, LiveServer
from tests.support.operating import UNKNOWN_ID, ApiClient, api_of, api_with, at_once
from tests.support.people import Tenant, execute
from tests.support.sending import error_of, event_for, pointers_of, send
from tests.support.waiting import wait_until

PATH = "/v1/exports"


@pytest.fixture(name="api")
def _api(app: Flask, client: FlaskClient, alice: Tenant) -> ApiClient:
    """With three events, one of them an error."""
    for severity in ("info", "error", "info"):
        event = event_for(alice, severity=severity, payload={"text": os.urandom(2_000).hex()})
        assert send(client, alice, event).status_code == 201
    return api_of(app, alice)


@pytest.fixture(name="done")
def _done(api: ApiClient, context: Context, alice: Tenant) -> dict[str, Any]:
    """A completed export."""
    export = api.made(PATH, {"project_id": alice.project_id})
    work_off(context, export["id"])
    return dict(api.get(f"{PATH}/{export['id']}").json or {})


def _fetch(api: ApiClient, path: str, **headers: str) -> TestResponse:
    """All of the response, so that the file behind it is closed."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return api.call("GET", path, headers=sent, buffered=True)


class TestAsking:
    def test_says_how_it_was_understood_and_is_queued(self, api: ApiClient, alice: Tenant) -> None:
        body = {"project_id": alice.project_id, "q": "severity:error  type:payment.failed", "from": "-2h"}
        response = api.post(PATH, body)

        assert response.status_code == 201
        made = response.json or {}
        assert made["id"].startswith("exp_")
        assert response.headers["Location"] == f"{PATH}/{made['id']}"
        assert made["query"]["normalized"] == "severity:error type:payment.failed"
        assert made["project_id"] == alice.project_id
        assert made["requested_by"] == alice.token_id
        nothing_yet = ("sha256", "file", "started_at", "ended_at", "expires_at", "failure")
        assert [made[name] for name in nothing_yet] == [None] * 6
        assert (made["state"], made["format"], made["progress"], made["events"], made["bytes"]) == (
            *("queued", "ndjson"),
            *(0, 0, 0),
        )
        assert api.get(response.headers["Location"]).json == made
        assert api.all_of(PATH) == [made]

    def test_freezes_the_range(self, api: ApiClient, context: Context, client: FlaskClient, alice: Tenant) -> None:
        made = api.made(PATH, {"project_id": alice.project_id})
        assert send(client, alice).status_code == 201

        assert work_off(context, made["id"]).events == 3
        begin, end = (datetime.fromisoformat(made["query"][name]) for name in ("from", "to"))
        assert end - begin == timedelta(hours=24)
        assert end <= datetime.now(UTC)

    def test_sent_again_with_its_key_shows_the_first_one(self, api: ApiClient, alice: Tenant) -> None:
        body, headers = {"project_id": alice.project_id}, {"Idempotency-Key": "1"}
        first, again = (api.post(PATH, body, headers=headers) for _ in range(2))

        assert (first.status_code, again.status_code) == (201, 201)
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.json == first.json
        assert len(api.all_of(PATH)) == 1
        assert api.post(PATH, body | {"q": "x"}, headers=headers).status_code == 422

    def test_leaves_an_entry_that_says_what_was_asked_for(self, api: ApiClient, alice: Tenant) -> None:
        made = api.made(PATH, {"project_id": alice.project_id, "q": "error", "format": "csv"})

        (entry,) = api.all_of("/v1/audit", object_id=made["id"])
        assert (entry["action"], entry["actor"], entry["project_id"]) == (
            *("export.create", alice.token_id),
            alice.project_id,
        )
        begin, end = made["query"]["from"], made["query"]["to"]
        assert entry["after"] == {"q": "error", "from": begin, "to": end, "format": "csv"}

    @pytest.mark.parametrize(
        ("change", "pointer"),
        [
            ({"q": "sevrity:error"}, "/q"),
            ({"q": "env:nowhere"}, "/q"),
            ({"from": "-1h", "to": "-2h"}, "/to"),
            ({"from": "2026-02-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "/to"),
            ({"from": "2016-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "/from"),
            ({"format": "xml"}, "/format"),
            ({"project_id": None}, "/project_id"),
            ({"after": "evu_1"}, "/after"),
        ],
    )
    def test_what_is_wrong_is_refused_at_once_with_its_place(
        self, api: ApiClient, alice: Tenant, change: dict[str, Any], pointer: str
    ) -> None:
        response = api.post(PATH, {"project_id": alice.project_id} | change)

        assert response.status_code == 422
        assert pointers_of(response) == {pointer}
        assert api.all_of(PATH) == []

    def test_for_a_strangers_project_is_like_asking_for_an_unknown_one(self, api: ApiClient, charlie: Tenant) -> None:
        headers = {"X-Request-ID": "same"}
        theirs, unknown = (
            api.post(PATH, {"project_id": project_id}, headers=headers)
            for project_id in (charlie.project_id, f"prj_{UNKNOWN_ID}")
        )

        assert theirs.status_code == 404
        assert (theirs.data, dict(theirs.headers)) == (unknown.data, dict(unknown.headers))

    def test_where_there_is_no_folder_is_refused_with_what_can_be_done(
        self, app: Flask, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        without = replace(context, settings=replace(context.settings, download_dir=""))
        with patch.dict(app.extensions, {EXTENSION: without}):
            response = api.post(PATH, {"project_id": alice.project_id})

        assert response.status_code == 501
        assert error_of(response)["code"] == "not_configured"
        assert error_of(response)["retryable"] is False
        assert "GET /v1/events/export" in error_of(response)["message"]


class TestBounds:
    def test_of_twenty_requests_at_once_five_are_taken_until_one_is_cancelled(
        self, app: Flask, api: ApiClient, alice: Tenant
    ) -> None:
        body = {"project_id": alice.project_id}
        calls: list[Callable[[], int]] = [lambda: api_of(app, alice).post(PATH, body).status_code] * 20
        assert sorted(at_once(calls)) == [201] * 5 + [409] * 15
        assert "cancel one" in error_of(api.post(PATH, body))["message"]

        assert api.post(f"{PATH}/{api.all_of(PATH)[2]['id']}/cancel").status_code == 200
        assert api.post(PATH, body).status_code == 201

    def test_so_many_files_are_kept_until_one_is_deleted_or_expires(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        body, now = {"project_id": alice.project_id}, datetime.now(UTC)
        ended = {"state": "completed", "ended_at": now}
        kept = [add_export(context, alice, expires_at=now + timedelta(hours=1), **ended) for _ in range(2)]
        add_export(context, alice, expires_at=now - timedelta(seconds=1), **ended)
        with patch.object(domain, "KEPT_MAX", 2):
            assert "delete one" in error_of(api.post(PATH, body))["message"]
            assert api.delete(f"{PATH}/{export_of(context, kept[0]).public_id}").status_code == 204
            assert api.post(PATH, body).status_code == 201

    def test_files_take_so_much_space_and_no_more(
        self, app: Flask, api: ApiClient, context: Context, alice: Tenant, charlie: Tenant
    ) -> None:
        add_export(
            context,
            alice,
            state="completed",
            ended_at=datetime.now(UTC),
            bytes=100,
            expires_at=datetime.now(UTC) + timedelta(hours=1),
        )
        small = replace(context, settings=replace(context.settings, download_bytes_max=100))
        with patch.dict(app.extensions, {EXTENSION: small}):
            refused = api.post(PATH, {"project_id": alice.project_id})
            assert error_of(refused)["code"] == "conflict"
            assert "100 bytes" in error_of(refused)["message"]
            assert api_of(app, charlie).post(PATH, {"project_id": charlie.project_id}).status_code == 201


class TestReach:
    def test_who_reaches_the_project_sees_its_exports_whoever_asked_for_them(
        self, app: Flask, api: ApiClient, context: Context, alice: Tenant, done: dict[str, Any]
    ) -> None:
        other = api.made("/v1/projects", {"name": "other"})["id"]
        mine, others = (
            api_with(app, context, alice, NewToken(role=Role.AUDITOR, project_ids=(project_id,)))
            for project_id in (alice.project_id, other)
        )

        assert mine.all_of(PATH) == [done]
        assert _fetch(mine, done["file"]).status_code == 200
        assert others.all_of(PATH) == []
        for path in (f"{PATH}/{done['id']}", done["file"]):
            assert others.get(path).status_code == 404

    def test_an_export_outlives_its_token_and_an_archived_project(
        self, app: Flask, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        asking = api_with(app, context, alice, NewToken(role=Role.DEVELOPER, label="asking"))
        made = asking.made(PATH, {"project_id": alice.project_id})
        assert api.post(f"/v1/tokens/{made['requested_by']}/revoke").status_code == 200
        assert api.delete(f"/v1/projects/{alice.project_id}").status_code == 204
        execute(context, "UPDATE workspaces SET status = 'suspended' WHERE id = :id", id=alice.workspace_row)

        assert work_off(context, made["id"]).events == 3
        path = f"{PATH}/{made['id']}/file"
        assert _fetch(api, path).status_code == 200
        assert asking.get(path).status_code == 401

    def test_an_auditor_fetches_and_asks_for_none(
        self, app: Flask, context: Context, alice: Tenant, done: dict[str, Any]
    ) -> None:
        auditor = api_with(app, context, alice, NewToken(role=Role.AUDITOR))

        assert _fetch(auditor, done["file"]).status_code == 200
        for refused in (
            auditor.post(PATH, {"project_id": alice.project_id}),
            auditor.post(f"{PATH}/{done['id']}/cancel"),
            auditor.delete(f"{PATH}/{done['id']}"),
        ):
            assert refused.status_code == 403


class TestEnding:
    def test_a_pending_one_is_cancelled_once(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        made = api.made(PATH, {"project_id": alice.project_id})
        turn_of(context, row_of(context, made["id"]))

        first, again = (api.post(f"{PATH}/{made['id']}/cancel") for _ in range(2))
        assert (first.status_code, again.status_code) == (200, 200)
        assert first.json == again.json
        assert (first.json or {})["state"] == "cancelled"
        (entry, _) = api.all_of("/v1/audit", object_id=made["id"])
        assert (entry["action"], entry["before"]["state"]) == ("export.cancel", "running")
        refused = api.get(f"{PATH}/{made['id']}/file")
        assert refused.status_code == 409
        assert "is cancelled" in error_of(refused)["message"]

    def test_to_cancel_a_completed_one_changes_nothing(self, api: ApiClient, done: dict[str, Any]) -> None:
        assert api.post(f"{PATH}/{done['id']}/cancel").json == done
        assert _fetch(api, done["file"]).status_code == 200

    def test_a_deleted_one_is_gone_with_its_file(self, api: ApiClient, done: dict[str, Any]) -> None:
        assert api.delete(f"{PATH}/{done['id']}").status_code == 204

        assert api.all_of(PATH) == []
        for path in (f"{PATH}/{done['id']}", done["file"]):
            assert api.get(path).status_code == 404
        assert api.delete(f"{PATH}/{done['id']}").status_code == 404
        assert api.all_of("/v1/audit", object_id=done["id"])[0]["action"] == "export.delete"

    def test_a_list_goes_on_behind_one_that_is_deleted_between_two_pages(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        oldest, *_ = (api.made(PATH, {"project_id": alice.project_id})["id"] for _ in range(3))
        first = api.get(PATH, limit=2).json or {}
        assert api.delete(f"{PATH}/{first['data'][-1]['id']}").status_code == 204

        second = api.get(PATH, limit=2, cursor=first["next_cursor"]).json or {}
        assert [each["id"] for each in second["data"]] == [oldest]

    def test_to_delete_a_pending_one_cancels_it(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        made = api.made(PATH, {"project_id": alice.project_id})

        assert api.delete(f"{PATH}/{made['id']}").status_code == 204
        assert export_of(context, row_of(context, made["id"])).state == "cancelled"

    def test_a_state_that_was_not_read_is_neither_cancelled_nor_deleted(self, api: ApiClient, alice: Tenant) -> None:
        made = api.made(PATH, {"project_id": alice.project_id})

        for method, path in (("POST", f"{PATH}/{made['id']}/cancel"), ("DELETE", f"{PATH}/{made['id']}")):
            assert api.call(method, path, headers={"If-Match": '"other"'}).status_code == 412


class TestFile:
    @pytest.mark.parametrize("form", ["ndjson", "csv"])
    def test_holds_what_the_stream_sends(self, api: ApiClient, context: Context, alice: Tenant, form: str) -> None:
        made = api.made(PATH, {"project_id": alice.project_id, "q": "severity:info", "format": form})
        work_off(context, made["id"])
        export = api.get(f"{PATH}/{made['id']}").json or {}

        answer = _fetch(api, export["file"])
        stream = {name: made["query"][name] for name in ("from", "to")} | {"q": "severity:info", "format": form}
        assert gzip.decompress(answer.data) == api.get("/v1/events/export", project_id=alice.project_id, **stream).data
        assert (export["state"], export["progress"], export["events"]) == ("completed", 1, 2)
        assert export["bytes"] == len(answer.data) == int(answer.headers["Content-Length"])
        assert export["sha256"] == hashlib.sha256(answer.data).hexdigest()
        kept = datetime.fromisoformat(export["expires_at"]) - datetime.fromisoformat(export["ended_at"])
        assert abs(kept - timedelta(days=7)) < timedelta(seconds=1)
        assert answer.mimetype == "application/gzip"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Content-Disposition"] == f'attachment; filename="{made["id"]}.{form}.gz"'
        digest = base64.b64encode(hashlib.sha256(answer.data).digest()).decode()
        assert answer.headers["Repr-Digest"] == f"sha-256=:{digest}:"

    def test_can_be_fetched_in_parts_as_long_as_it_is_the_same(self, api: ApiClient, done: dict[str, Any]) -> None:
        whole = _fetch(api, done["file"])
        etag = whole.headers["ETag"]

        def part(**headers: str) -> tuple[int, bytes]:
            answer = _fetch(api, done["file"], **headers)
            return answer.status_code, answer.data

        assert etag == f'"{done["sha256"]}"'
        assert whole.headers["Accept-Ranges"] == "bytes"
        assert part(Range="bytes=10-") == (206, whole.data[10:])
        assert part(Range="bytes=10-19", If_Range=etag) == (206, whole.data[10:20])
        assert part(Range="bytes=10-19", If_Range='"another"') == (200, whole.data)
        assert part(Range="bytes=0-1,5-6") == (200, whole.data)
        assert part(Range="lines=5") == (200, whole.data)
        assert part(If_None_Match=etag) == (304, b"")
        assert part(If_Match='"another"') == (200, whole.data)

    def test_counts_who_fetches_it_its_events_with_its_beginning(
        self, app: Flask, api: ApiClient, alice: Tenant, done: dict[str, Any]
    ) -> None:
        for headers in ({}, {"Range": "bytes=0-9"}, {"Range": "bytes=10-19"}):
            _fetch(api, done["file"], **headers)
        _fetch(api, done["file"], If_None_Match=f'"{done["sha256"]}"')

        counted = counted_reads(app, alice)["downloadExport", ANSWERED]

        assert counted == Amounts(requests=4, events=6, body_bytes=done["bytes"] + 20)

    def test_a_part_behind_its_end_says_how_long_it_is(self, api: ApiClient, done: dict[str, Any]) -> None:
        answer = _fetch(api, done["file"], Range=f"bytes={done['bytes']}-")

        assert answer.status_code == 416
        assert error_of(answer)["code"] == "range_not_satisfiable"
        assert answer.headers["Content-Range"] == f"bytes */{done['bytes']}"

    def test_is_there_when_the_export_is_completed_and_not_before(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        made = api.made(PATH, {"project_id": alice.project_id})
        for state in ("queued", "running"):
            refused = api.get(f"{PATH}/{made['id']}/file")
            assert refused.status_code == 409
            assert f"is {state}" in error_of(refused)["message"]
            turn_of(context, row_of(context, made["id"]))

    def test_is_not_found_from_its_expiry_on_though_it_lies_there_still(
        self, api: ApiClient, context: Context, done: dict[str, Any]
    ) -> None:
        execute(context, "UPDATE exports SET expires_at = clock_timestamp() WHERE public_id = :id", id=done["id"])

        refused = _fetch(api, done["file"])
        assert refused.status_code == 404
        assert "was kept until" in error_of(refused)["message"]
        export = api.get(f"{PATH}/{done['id']}").json or {}
        assert (export["state"], export["file"], export["sha256"]) == ("completed", None, done["sha256"])

    @pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"cut")], ids=["gone", "cut"])
    def test_that_cannot_be_read_is_asked_for_again(
        self, api: ApiClient, context: Context, done: dict[str, Any], spoil: Callable[[Path], object]
    ) -> None:
        spoil(file_of(context, export_of(context, row_of(context, done["id"]))))

        refused = _fetch(api, done["file"])
        assert refused.status_code == 503
        assert error_of(refused)["retryable"] is True
        assert context.settings.download_dir not in refused.text


class TestOnAServer:
    """The file passes through the adapter, which sends a long response piece by piece."""

    @pytest.fixture(name="large")
    def _large(self, api: ApiClient, context: Context, client: FlaskClient, alice: Tenant) -> dict[str, Any]:
        for _ in range(8):
            event = event_for(alice, payload={"text": os.urandom(100_000).hex()})
            assert send(client, alice, event).status_code == 201
        made = api.made(PATH, {"project_id": alice.project_id})
        work_off(context, made["id"])
        return dict(api.get(f"{PATH}/{made['id']}").json or {})

    def _get(self, live: LiveServer, alice: Tenant, large: dict[str, Any], **headers: str) -> Answer:
        return live.request("GET", large["file"], headers=alice.bearer | headers)

    def test_it_arrives_whole_and_in_parts(self, live: LiveServer, alice: Tenant, large: dict[str, Any]) -> None:
        whole = self._get(live, alice, large)
        assert whole.status == 200
        assert hashlib.sha256(whole.body).hexdigest() == large["sha256"]
        assert len(whole.body) > 500_000

        part = self._get(live, alice, large, Range="bytes=300000-", **{"If-Range": whole.headers["etag"]})
        assert (part.status, part.body) == (206, whole.body[300_000:])
        assert self._get(live, alice, large, **{"If-None-Match": whole.headers["etag"]}).status == 304
        head = live.request("HEAD", large["file"], headers=alice.bearer)
        assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(whole.body)))

    def test_who_hangs_up_leaves_no_file_open(self, live: LiveServer, alice: Tenant, large: dict[str, Any]) -> None:
        for _ in range(4):
            connection = HTTPConnection("127.0.0.1", live.port, timeout=30)
            connection.request("GET", large["file"], headers=alice.bearer)
            connection.getresponse().read(1_000)
            connection.close()

        processes = [psutil.Process(live.process.pid), *psutil.Process(live.process.pid).children(recursive=True)]
        wait_until(lambda: not [file for each in processes for file in each.open_files() if large["id"] in file.path])
        assert self._get(live, alice, large).status == 200
