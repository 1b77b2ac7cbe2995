"""Every operation that reads counts who reads: once for each request, with what its response has shown."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, cast
from unittest.mock import patch

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.context import Context
from app.counting.reads import ANSWERED, BROKEN_OFF
from app.errors import QueryTooBroad, RateLimitExceeded, StorageUnavailable
from app.events import export, search
from app.events.blueprint import ReadingBlueprint
from app.events.feed.middleware import FollowMiddleware
from app.events.statements import reading
from app.ingest.fast_path import FastPath
from app.management.common.openapi import operation_id
from app.management.common.operation import Operation
from app.models.read_usage import NO_PROJECT
from tests.support.consuming import worker_of
from tests.support.counted_reads import Amounts, counted_reads, written_reads
from tests.support.counting import count_of, growing
from tests.support.databases import close
from tests.support.following import FEED, store_group
from tests.support.operating import ApiClient, api_of
from tests.support.people import Tenant
from tests.support.replaying import replay_of
from tests.support.sending import event_for, send
from tests.support.waiting import wait_until

_EVENTS = 5
_EXPORT = "/v1/events/export"


@pytest.fixture(name="api")
def _api(app: Flask, client: FlaskClient, alice: Tenant) -> ApiClient:
    """Alice's, with some events."""
    for n in range(_EVENTS):
        assert send(client, alice, event_for(alice, event_id=f"e{n}")).status_code == 201
    return api_of(app, alice)


Counted = Callable[[], dict[tuple[str, str], Amounts]]


@pytest.fixture(name="counted")
def _counted(app: Flask, alice: Tenant) -> Counted:
    """What has been counted for Alice's project."""
    return lambda: counted_reads(app, alice)


@pytest.fixture(name="counted_for_no_project")
def _counted_for_no_project(app: Flask, context: Context, alice: Tenant) -> Counted:
    def counted() -> dict[tuple[str, str], Amounts]:
        counted_reads(app, alice)
        return written_reads(context, alice, project_id=NO_PROJECT)

    return counted


def _is_of_events(view: Any) -> bool:
    return str(view.__module__).startswith("app.events.")


def test_every_operation_on_events_is_counted(app: Flask) -> None:
    """Also one that is made tomorrow: its blueprint counts, whatever its operations are."""
    counting = {name for name, it in app.blueprints.items() if isinstance(it, ReadingBlueprint)}
    reading = {endpoint for endpoint, view in app.view_functions.items() if _is_of_events(view)}

    assert len(reading) >= 7
    assert {endpoint for endpoint in reading if endpoint.partition(".")[0] not in counting} == set()


def _shown_in(text: str) -> int:
    """How many events a response of any form shows."""
    return len(re.findall(r'"id": ?"evu_', text))


def _ask(api: ApiClient, operation: Operation, path: str, query: dict[str, str]) -> TestResponse:
    if operation.method == "GET":
        return api.get(path, **query, **({"cursor": "start"} if path == FEED else {}))
    return api.call(operation.method, path, query)


def _of(counts: dict[tuple[str, str], Amounts], operation: str) -> Amounts:
    """Of all outcomes together."""
    found = [amounts for (name, _), amounts in counts.items() if name == operation]
    return Amounts(*map(sum, zip(*found, Amounts(0, 0, 0), strict=True)))


def test_each_of_them_counts_the_events_and_the_bytes_that_it_shows(
    app: Flask, api: ApiClient, context: Context, alice: Tenant
) -> None:
    """Also one that is made tomorrow, which may refuse what is sent here: that counts too, and shows nothing."""
    own = (api.get("/v1/events", project_id=alice.project_id).json or {})["data"][0]["id"]
    showing = set()
    for rule in app.url_map.iter_rules():
        view: Any = app.view_functions[rule.endpoint]
        if not _is_of_events(view):
            continue
        path = rule.rule.replace("<source_id>", alice.source_id).replace("<path:event_id>", "e1")
        path = re.sub("<[^>]*>", "unknown", path.replace("<event_id>", own))
        name = operation_id(rule.endpoint.partition(".")[2])
        context.reads.flush()
        before = _of(written_reads(context, alice), name)

        response = _ask(api, view.operation, path, {} if rule.arguments else {"project_id": alice.project_id})
        body = response.data if response.status_code < 400 else b""
        context.reads.flush()

        after = _of(written_reads(context, alice), name)
        grown = tuple(now - then for now, then in zip(after, before, strict=True))
        assert grown == (1, _shown_in(body.decode()), len(body)), name
        if grown[1]:
            showing.add(name)
    searches = {"searchEvents", "searchEventsByBody"}
    assert {"readEvent", "readEventOfSource", "readFeed", "exportEvents"} | searches <= showing


@pytest.fixture(name="export_id")
def _export_id(api: ApiClient, alice: Tenant) -> str:
    return str(api.made("/v1/exports", {"project_id": alice.project_id})["id"])


class TestWhatBelongsToAProject:
    """A consumer, an export and a replay do: who reads or changes one is counted for its project."""

    @pytest.fixture(name="paths")
    def _paths(self, api: ApiClient, alice: Tenant, export_id: str) -> dict[str, str]:
        return {
            "Consumer": worker_of(api, "billing", alice.project_id, start="start").path,
            "Export": f"/v1/exports/{export_id}",
            "Replay": f"/v1/replays/{replay_of(api, alice)}",
        }

    @pytest.fixture(name="asked")
    def _asked(self, paths: dict[str, str]) -> dict[str, tuple[str, str]]:
        """The requests, by their operation."""
        return {
            "readConsumer": ("GET", paths["Consumer"]),
            "readExport": ("GET", paths["Export"]),
            "readReplay": ("GET", paths["Replay"]),
            "cancelExport": ("POST", paths["Export"] + "/cancel"),
            "cancelReplay": ("POST", paths["Replay"] + "/cancel"),
            "deleteExport": ("DELETE", paths["Export"]),
            "deleteConsumer": ("DELETE", paths["Consumer"]),
        }

    def test_counts_for_it(
        self, api: ApiClient, asked: dict[str, tuple[str, str]], counted: Counted, counted_for_no_project: Counted
    ) -> None:
        elsewhere = counted_for_no_project()
        for method, path in asked.values():
            assert api.call(method, path).status_code < 300, path

        found = counted()
        assert {name: found.get((name, ANSWERED), Amounts(0, 0, 0)).requests for name in asked} == dict.fromkeys(
            asked, 1
        )
        assert counted_for_no_project() == elsewhere

    def test_counts_for_it_if_its_state_is_another_one_than_was_read(
        self, api: ApiClient, asked: dict[str, tuple[str, str]], counted: Counted
    ) -> None:
        changes = {name: request for name, request in asked.items() if request[0] != "GET"}
        for method, path in changes.values():
            assert api.call(method, path, headers={"If-Match": '"old"'}).status_code == 412, path

        assert {name for name, outcome in counted() if outcome == "precondition_failed"} == changes.keys()

    def test_counts_for_no_project_if_it_is_a_strangers(
        self, app: Flask, charlie: Tenant, asked: dict[str, tuple[str, str]], counted: Counted
    ) -> None:
        before = counted()
        for method, path in asked.values():
            assert api_of(app, charlie).call(method, path).status_code == 404, path

        assert counted() == before
        assert counted_reads(app, charlie) == {}


def test_the_sample_of_a_dry_run_counts_as_shown(api: ApiClient, alice: Tenant, counted: Counted) -> None:
    body = {"query": {"project_id": alice.project_id}, "target_source_id": alice.source_id, "dry_run": True}
    response = api.post("/v1/replays", body)

    assert _shown_in(response.text) == _EVENTS
    assert counted() == {("createReplay", ANSWERED): Amounts(1, _EVENTS, len(response.data))}


class TestRefusals:
    def test_count_under_their_code_and_show_nothing(
        self, api: ApiClient, alice: Tenant, counted: Counted, counted_for_no_project: Counted
    ) -> None:
        def refuse(error: Exception) -> Callable[..., None]:
            def raise_it(*_: object, **__: object) -> None:
                raise error

            return raise_it

        for error in (QueryTooBroad(), StorageUnavailable()):
            with patch.object(search, "read_horizon", refuse(error)):
                api.get("/v1/events", project_id=alice.project_id)
        api.get("/v1/events", project_id=alice.project_id, q="severity:")
        api.get("/v1/events", project_id="prj_unknown")
        api.get(f"/v1/events/{alice.source_id}")

        assert counted() == {
            ("searchEvents", "query_too_broad"): Amounts(1, 0, 0),
            ("searchEvents", "storage_unavailable"): Amounts(1, 0, 0),
        }
        assert counted_for_no_project() == {
            ("searchEvents", "schema_validation_failed"): Amounts(1, 0, 0),
            ("searchEvents", "not_found"): Amounts(1, 0, 0),
            ("readEvent", "not_found"): Amounts(1, 0, 0),
        }

    def test_a_strangers_project_is_counted_for_nobody_else(
        self, app: Flask, api: ApiClient, charlie: Tenant, counted_for_no_project: Counted
    ) -> None:
        api.get("/v1/events", project_id=charlie.project_id)

        assert counted_for_no_project() == {("searchEvents", "not_found"): Amounts(1, 0, 0)}
        assert counted_reads(app, charlie) == {}

    def test_a_token_over_its_rate_is_counted(
        self, api: ApiClient, context: Context, alice: Tenant, counted_for_no_project: Counted
    ) -> None:
        with patch.object(context.management.rate_limiter, "admit", side_effect=RateLimitExceeded):
            assert api.get("/v1/events", project_id=alice.project_id).status_code == 429

        assert counted_for_no_project() == {("searchEvents", "rate_limit_exceeded"): Amounts(1, 0, 0)}

    def test_a_revoked_token_that_goes_on_is_counted_and_one_that_was_never_issued_is_not(
        self, app: Flask, api: ApiClient, alice: Tenant, counted_for_no_project: Counted
    ) -> None:
        assert api.post(f"/v1/tokens/{alice.token_id}/revoke").status_code == 200
        assert api.get("/v1/events", project_id=alice.project_id).status_code == 401
        assert ApiClient(app.test_client(), "lrb_mt_never").get("/v1/events").status_code == 401
        assert app.test_client().get("/v1/events").status_code == 401

        assert counted_for_no_project() == {("searchEvents", "invalid_management_token"): Amounts(1, 0, 0)}


def test_other_operations_are_not_counted(api: ApiClient, counted: Counted, counted_for_no_project: Counted) -> None:
    for path in ("/v1/projects", "/v1/usage", "/v1/usage/reads", "/v1/events/nowhere/at/all"):
        api.get(path)

    assert counted() == counted_for_no_project() == {}


def test_head_shows_nothing_and_options_is_no_read(api: ApiClient, alice: Tenant, counted: Counted) -> None:
    for path in ("/v1/events", _EXPORT):
        assert api.call("HEAD", f"{path}?project_id={alice.project_id}").status_code == 200
        api.call("OPTIONS", path)

    assert counted() == {("searchEvents", ANSWERED): Amounts(1, 0, 0), ("exportEvents", ANSWERED): Amounts(1, 0, 0)}


def test_operators_see_how_many_events_each_operation_shows(api: ApiClient, alice: Tenant) -> None:
    with growing() as growth:
        api.get("/v1/events", project_id=alice.project_id)
        api.get(_EXPORT, project_id=alice.project_id)

    for operation in ("searchEvents", "exportEvents"):
        assert count_of(growth, "lariba_events_shown_total", operation=operation) == _EVENTS


def test_a_read_succeeds_although_nothing_can_be_counted(
    api: ApiClient, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context.reads, "_counts_max", 0)

    assert api.get("/v1/events", project_id=alice.project_id).status_code == 200
    context.reads.flush()


class TestExport:
    @pytest.fixture(autouse=True)
    def _small_chunks(self) -> Iterator[None]:
        with patch.object(export, "CHUNK_EVENTS", 2):
            yield

    @pytest.mark.parametrize("form", ["ndjson", "csv"])
    def test_a_compressed_one_counts_what_it_says(
        self, api: ApiClient, alice: Tenant, counted: Counted, form: str
    ) -> None:
        path = f"{_EXPORT}?project_id={alice.project_id}&format={form}"
        plain = api.call("GET", path).data
        packed = api.call("GET", path, headers={"Accept-Encoding": "gzip"})

        assert packed.headers["Content-Encoding"] == "gzip"
        assert len(packed.data) < len(plain)
        assert counted() == {("exportEvents", ANSWERED): Amounts(2, 2 * _EVENTS, 2 * len(plain))}

    def test_it_counts_as_it_is_sent(self, api: ApiClient, alice: Tenant, counted: Counted) -> None:
        answer = api.call("GET", f"{_EXPORT}?project_id={alice.project_id}", buffered=False)
        pieces = iter(answer.iter_encoded())
        sent = len(next(pieces))

        assert counted() == {("exportEvents", ANSWERED): Amounts(1, 2, sent)}
        list(pieces)
        assert counted()["exportEvents", ANSWERED][:2] == (1, _EVENTS)
        assert ("exportEvents", BROKEN_OFF) not in counted()

    @pytest.mark.parametrize("encoding", ["identity", "gzip"])
    def test_one_whose_client_goes_away_counts_what_was_sent_and_that_it_broke_off(
        self, api: ApiClient, alice: Tenant, counted: Counted, encoding: str
    ) -> None:
        headers = {"Accept-Encoding": encoding}
        answer = api.call("GET", f"{_EXPORT}?project_id={alice.project_id}", headers=headers, buffered=False)
        next(iter(answer.iter_encoded()))
        answer.close()

        found = counted()
        assert found["exportEvents", ANSWERED][:2] == (1, 2)
        assert found["exportEvents", BROKEN_OFF] == Amounts(1, 0, 0)

    def test_so_does_one_that_fails(self, api: ApiClient, alice: Tenant, counted: Counted) -> None:
        opened = []

        def break_off(*arguments: Any, **named: Any) -> Any:
            opened.append(arguments)
            if len(opened) > 2:
                raise StorageUnavailable
            return reading(*arguments, **named)

        with patch.object(export, "reading", break_off), pytest.raises(StorageUnavailable):
            list(api.call("GET", f"{_EXPORT}?project_id={alice.project_id}", buffered=False).iter_encoded())

        assert counted()["exportEvents", ANSWERED][:2] == (1, 4)
        assert counted()["exportEvents", BROKEN_OFF] == Amounts(1, 0, 0)


@contextmanager
def _following(app: Flask, tenant: Tenant, number: int) -> Iterator[Callable[[], list[Any]]]:
    """Requests that are waiting; yields what returns the JSON of their responses."""
    followers = cast(FollowMiddleware, cast(FastPath, app.wsgi_app).application).followers

    def waiting() -> int:
        return sum(wait.workspace_id == tenant.workspace_row for wait in list(followers._waits))  # noqa: SLF001

    query = {"project_id": tenant.project_id, "cursor": "now", "wait": 25}
    with ThreadPoolExecutor(number) as pool:
        held = [pool.submit(lambda: api_of(app, tenant).get(FEED, **query).json) for _ in range(number)]
        wait_until(lambda: waiting() == number)
        yield lambda: [each.result(20) for each in held]
    close(followers.database)


class TestFeed:
    def test_a_request_that_waits_counts_once_with_the_page_that_ends_it(
        self, app: Flask, context: Context, api: ApiClient, alice: Tenant, counted: Counted
    ) -> None:
        with _following(app, alice, 2) as responses:
            assert counted() == {}
            store_group(context.database, alice, "new")
            shown = responses()

        assert [page["data"][0]["event_id"] for page in shown] == ["new", "new"]
        assert counted()["readFeed", ANSWERED][:2] == (2, 2)

    def test_one_that_may_not_wait_counts_with_the_page_that_it_gets(
        self, app: Flask, api: ApiClient, alice: Tenant, counted: Counted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        followers = cast(FollowMiddleware, cast(FastPath, app.wsgi_app).application).followers
        monkeypatch.setattr(followers, "add", lambda *_, **__: False)
        page = api.get(FEED, project_id=alice.project_id, cursor="now", wait=25)

        assert page.json is not None
        assert page.json["data"] == []
        assert counted() == {("readFeed", ANSWERED): Amounts(1, 0, len(page.data))}

    def test_one_whose_token_is_revoked_meanwhile_counts_as_refused(
        self, app: Flask, context: Context, api: ApiClient, alice: Tenant, counted: Counted,
        counted_for_no_project: Counted,
    ) -> None:  # fmt: skip
        with _following(app, alice, 1) as responses:
            assert api.post(f"/v1/tokens/{alice.token_id}/revoke").status_code == 200
            store_group(context.database, alice, "new")
            responses()

        assert counted() == {}
        assert counted_for_no_project() == {("readFeed", "invalid_management_token"): Amounts(1, 0, 0)}
