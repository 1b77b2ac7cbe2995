"""Search: every page of every query shows what the evaluator says, whatever the skip index holds and events come in."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, text

from app.context import Context
from app.database.engine import TenantScope
from app.events import kinds, segments, walk
from app.events.query.evaluation import matches
from app.events.query.parsing import parse
from app.events.query.words import read_payload
from app.events.statements import DAYS_AT_ONCE
from app.events.view import PAGE_BYTES, ShownEvent
from app.management.common.operators import Role
from app.management.tokens.domain import NewToken
from tests.events.query.strategies import combined
from tests.support.examples import examples
from tests.support.operating import ApiClient, api_of, api_with
from tests.support.past_days import MARK_CLOSED_DAYS
from tests.support.people import Tenant, make_tenant
from tests.support.sending import error_of, event_for, pointers_of, send

_EVENTS = 240
_DAYS = 20
_TYPES = ("payment.failed", "payment.card.failed", "payment", "order.created")
_SEVERITIES = ("debug", "info", "warning", "error", "critical")
# Each of which the skip index knows together with the name of its member.
_SHORT_VALUES = (
    *("payload.n:7", "payload.n:7.0", "payload.n:170", "payload.n:170.00", "payload.ok:true", 'payload.ok:"true"'),
    *(
        "payload.k:1",
        'payload.k:"1"',
        "payload.k:2.5",
        "payload.k:2.50",
        "payload.k:null",
        "payload.k:x",
        "payload.k:X",
    ),
    *("payload.k:50", "payload.k:[1, 50]", "payload.k:2", "-payload.k:2", "payload.codes:3", "payload.codes:ab"),
    *("payload.codes:30", "payload.k.a:1", "payload.nested:1", "payload.k:1 severity>=error"),
)
_ATOMS = st.sampled_from([
    *("type:payment.*", "type:payment", "type:[order.created, payment.failed]", "severity>=error", "severity:debug"),
    *("env:production", "payload.n>200", "payload.n:7", "payload.n:100..120", "payload.reason:card_declined"),
    *("payload.reason:[fraud, timeout]", "payload.nested.tags:red", "has:payload.nested", "has:payload.none"),
    *("declined", '"card declined"', "rare17", "id:e33", "nowhere", "payload.reason:nothing", "payload.ok:true"),
    "payload.reason:card*", *_SHORT_VALUES,
])  # fmt: skip
_QUERIES = combined(_ATOMS, max_leaves=5)


@dataclass(frozen=True, slots=True)
class Stored:
    """Events of many days, some of them in segments of the skip index."""

    api: ApiClient
    tenant: Tenant
    events: list[dict[str, Any]]
    """As the API shows them, the newest first."""

    def expected(self, q: str, *, since: datetime | None = None) -> list[str]:
        node = parse(q)
        return [
            event["event_id"]
            for event in self.events
            if matches(node, _shown(event)) and (since is None or event["received_at"] >= since)
        ]

    def pages(self, q: str, limit: int, **query: str) -> Iterator[dict[str, Any]]:
        cursor: dict[str, str] = {}
        while True:
            answer = self.api.get("/v1/events", project_id=self.tenant.project_id, q=q, limit=limit, **query, **cursor)
            assert answer.status_code == 200, answer.text
            assert answer.json is not None
            yield answer.json
            if answer.json["next_cursor"] is None:
                return
            cursor = {"cursor": answer.json["next_cursor"]}

    def found(self, q: str, limit: int = 50, **query: str) -> list[str]:
        query = {"from": f"-{_DAYS + 2}d"} | query
        return [event["event_id"] for page in self.pages(q, limit, **query) for event in page["data"]]


def _shown(event: dict[str, Any]) -> Any:
    moments = {name: datetime.fromisoformat(str(event[name])) for name in ("timestamp", "received_at")}
    return ShownEvent(**(event | moments | {"payload": read_payload(json.dumps(event["payload"]))}))


def _event(tenant: Tenant, n: int) -> dict[str, Any]:
    payload: dict[str, Any] = {"n": n, "reason": ("card_declined", "fraud", "timeout")[n % 3], "ok": n % 2 == 0}
    # Short values, as numbers with zeros at their end, as texts, in lists, and none.
    payload["k"] = (1, "1", 2.50, "2.5", None, "x", [50], {"a": 1})[n % 8]
    payload["codes"] = [n % 9, "ab"] if n % 3 else n % 4
    if n % 5 == 0:
        payload["nested"] = {"tags": ["red", "blue"] if n % 10 else ["green"]}
    if n % 40 == 17:
        payload["message"] = f"something rare{n % 100} happened"
    kinds = {"event_type": _TYPES[n % 4], "severity": _SEVERITIES[n * n % 5]}
    return event_for(tenant, event_id=f"e{n}", payload=payload, **kinds)


@pytest.fixture(scope="module", name="stored")
def _stored(app: Flask, context: Context) -> Stored:
    """A third is in no segment yet, days lie between events, and segments overlap."""
    tenant = make_tenant(context)
    client, api = app.test_client(), api_of(app, tenant)
    first_day = datetime.now(UTC).date() - timedelta(days=_DAYS)
    with psycopg.connect(context.settings.admin_database_url, autocommit=True) as owner:
        owner.execute("SELECT make_event_partitions(%s, %s)", [first_day, _DAYS])
        owner.execute("SELECT nextval('event_positions') FROM generate_series(1, 16)")
        for n in range(_EVENTS):
            assert send(client, tenant, _event(tenant, n)).status_code == 201
        owner.execute(
            "UPDATE events SET received_at = received_at - (%s - substr(event_id, 2)::integer) / 12 * interval '1 day',"
            # Positions in another order than times.
            " position = position # 8 WHERE project_id = %s",
            [_EVENTS - 1, tenant.project_row],
        )
        owner.execute(MARK_CLOSED_DAYS)
    with context.database.transaction(TenantScope.ALL) as session:
        for _ in range(_EVENTS * 2 // 3 // 16):
            build = text("SELECT build_event_segment(:project, 16)")
            assert session.execute(build, {"project": tenant.project_row}).scalar_one() == 16
    pages = Stored(api, tenant, []).pages("", 500, **{"from": f"-{_DAYS + 2}d"})
    return Stored(api, tenant, [event for page in pages for event in page["data"]])


@pytest.fixture(name="small_steps")
def _small_steps() -> Iterator[None]:
    """Each step of a walk reads a few events only, so that a few hundred take all of its steps."""
    steps = patch.multiple(walk, _FIRST_ROWS=5, _FIRST_ROWS_BY_KIND=5, _NEAR_ROWS=15, _CHUNK_ROWS=5, _CHUNK_ROWS_MAX=20)
    with steps, patch.object(segments, "_BATCH", 1), patch.object(kinds, "_PAGE_MAX", 2):
        yield


class TestFinding:
    def test_the_stored_events_are_all_there(self, stored: Stored) -> None:
        assert [event["event_id"] for event in stored.events] == [f"e{n}" for n in reversed(range(_EVENTS))]

    @settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @example(q="nowhere OR -type:payment.*", limit=7, most_segments=500, page_bytes=PAGE_BYTES)
    @example(q="payload.reason:fraud", limit=50, most_segments=500, page_bytes=300)
    @given(
        q=_QUERIES,
        limit=st.sampled_from([1, 7, 50, 500]),
        most_segments=st.sampled_from([2, 500]),
        page_bytes=st.sampled_from([300, 1_000, PAGE_BYTES]),
    )
    def test_any_query_shows_what_the_evaluator_says(
        self, stored: Stored, small_steps: None, q: str, limit: int, most_segments: int, page_bytes: int
    ) -> None:
        with patch.object(segments, "SEGMENTS_MAX", most_segments), patch.object(walk, "PAGE_BYTES", page_bytes):
            limit = max(limit, len(stored.expected(q)) // 8)

            assert stored.found(q, limit) == stored.expected(q)

    @pytest.mark.usefixtures("small_steps")
    @pytest.mark.parametrize("q", _SHORT_VALUES)
    def test_short_values_of_members_are_found(self, stored: Stored, q: str) -> None:
        assert stored.found(q) == stored.expected(q)

    @pytest.mark.parametrize("q", ["", "payload.n>=0", "has:payload.text"])
    def test_a_page_ends_where_its_payloads_take_some_megabytes(
        self, app: Flask, client: FlaskClient, alice: Tenant, q: str
    ) -> None:
        text = "x" * 200_000  # which PostgreSQL keeps in a fiftieth
        for n in range(30):
            assert send(client, alice, event_for(alice, payload={"n": n, "text": text})).status_code == 201

        pages = list(Stored(api_of(app, alice), alice, []).pages(q, 500))

        assert [event["payload"]["n"] for page in pages for event in page["data"]] == list(reversed(range(30)))
        assert len(pages) == 2
        assert len(pages[0]["data"]) == -(-PAGE_BYTES // (len(text) + 20))
        assert pages[0]["searched_from"] is None

    def test_a_source_and_a_key_are_found_by_their_ids(self, stored: Stored) -> None:
        tenant = stored.tenant

        for q in (f"source:{tenant.source_id}", f"key:{tenant.key_id}", f"env:{tenant.environment_id}"):
            assert len(stored.found(q, 500)) == _EVENTS
            assert stored.found(f"-{q}", 500) == []

    def test_a_walk_that_is_out_of_time_says_up_to_where_it_looked_and_goes_on(
        self, stored: Stored, small_steps: None
    ) -> None:
        for q in ("payload.n:3", "payload.n<5", "rare17"):
            with patch("app.events.search._SECONDS_MAX", 0.0):
                pages = list(stored.pages(q, 50, **{"from": f"-{_DAYS + 2}d"}))

            assert [event["event_id"] for page in pages for event in page["data"]] == stored.expected(q)
            unfinished = [page["searched_from"] for page in pages[:-1]]
            assert len(unfinished) > 1
            assert None not in unfinished
            assert unfinished == sorted(unfinished, reverse=True)
            assert pages[-1]["searched_from"] is None


class TestRange:
    @pytest.mark.parametrize("path", ["/v1/events", "/v1/events/counts"])
    @pytest.mark.parametrize(("asked", "to"), [({}, None), ({"to": "2024-06-02T00:00:00Z"}, "2024-06-02T00:00:00Z")])
    def test_is_a_day_if_the_query_does_not_say_since_when(
        self, stored: Stored, path: str, asked: dict[str, str], to: str | None
    ) -> None:
        answer = stored.api.get(path, project_id=stored.tenant.project_id, **asked)

        assert answer.json is not None
        begin, end = (datetime.fromisoformat(answer.json["query"][name]) for name in ("from", "to"))
        assert end - begin == timedelta(hours=24)
        assert to is None or end == datetime.fromisoformat(to)

    def test_is_frozen_in_the_first_answer(self, client: FlaskClient, app: Flask, alice: Tenant) -> None:
        for n in range(6):
            assert send(client, alice, event_for(alice, event_id=f"a{n}")).status_code == 201
        stored = Stored(api_of(app, alice), alice, [])
        pages = stored.pages("", 2)

        first = next(pages)
        assert send(client, alice, event_for(alice, event_id="late")).status_code == 201
        rest = list(pages)
        assert [event["event_id"] for page in [first, *rest] for event in page["data"]] == [
            f"a{n}" for n in reversed(range(6))
        ]
        assert {json.dumps(page["query"]) for page in [first, *rest]} == {json.dumps(first["query"])}

    def test_of_the_answer_can_be_sent_with_its_cursor(self, stored: Stored) -> None:
        first = next(stored.pages("", 5, **{"from": "-3d"}))
        kept = {name: first["query"][name] for name in ("from", "to")} | {"cursor": first["next_cursor"]}

        api, project_id = stored.api, stored.tenant.project_id
        assert api.get("/v1/events", project_id=project_id, limit=5, **kept).status_code == 200
        other = kept | {"from": "2026-01-01T00:00:00Z"}
        assert pointers_of(api.get("/v1/events", project_id=project_id, **other)) == {"/cursor"}

    def test_begins_with_its_first_moment_and_ends_before_its_last(self, stored: Stored) -> None:
        newest, oldest = stored.events[10], stored.events[20]

        found = stored.found("", 500, **{"from": oldest["received_at"], "to": newest["received_at"]})
        assert found == [event["event_id"] for event in stored.events[11:21]]

    @pytest.mark.parametrize(
        ("begin", "end", "pointer"),
        [
            ("2026-02-01T00:00:00Z", "2026-01-01T00:00:00Z", "/to"),
            ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "/to"),
            ("-1h", "-2h", "/to"),
            ("2016-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "/from"),
            ("-9999d", "-1d", "/from"),
            ("yesterday", "-1d", "/from"),
            ("-1d", "2026-01-01T00:00:00", "/to"),
            ("0001-01-01T00:00:00Z", "-1d", "/from"),
            ("-1d", "9999-12-31T23:59:59Z", "/to"),
        ],
    )
    def test_is_refused_with_its_place(self, stored: Stored, begin: str, end: str, pointer: str) -> None:
        answer = stored.api.get("/v1/events", project_id=stored.tenant.project_id, **{"from": begin, "to": end})

        assert answer.status_code == 422
        assert pointers_of(answer) == {pointer}


class TestRefusals:
    def test_a_query_that_is_wrong_is_told_where(self, stored: Stored) -> None:
        answer = stored.api.get("/v1/events", project_id=stored.tenant.project_id, q="env:production sevrity:error")

        (fault,) = error_of(answer)["details"]
        assert (fault["pointer"], fault["offset"], fault["length"]) == ("/q", 15, 7)
        assert "severity" in json.dumps(fault)

    @pytest.mark.parametrize("q", ["source:src_none", "key:key_none", "env:prodution"])
    def test_a_name_that_the_project_does_not_have_is_told(self, stored: Stored, q: str) -> None:
        assert pointers_of(stored.api.get("/v1/events", project_id=stored.tenant.project_id, q=q)) == {"/q"}

    def test_a_name_of_another_workspace_is_as_unknown_as_any(self, stored: Stored, charlie: Tenant) -> None:
        ask = stored.api.get
        theirs, none = (
            ask("/v1/events", project_id=stored.tenant.project_id, q=f"source:{name}")
            for name in (charlie.source_id, "src_" + "0" * 16)
        )
        assert error_of(theirs)["details"] == error_of(none)["details"]

    def test_a_project_of_another_workspace_is_not_found(self, stored: Stored, charlie: Tenant) -> None:
        answers = [
            stored.api.call("GET", f"/v1/events?project_id={project}", headers={"X-Request-ID": "same"})
            for project in (charlie.project_id, "prj_none")
        ]
        assert {answer.status_code for answer in answers} == {404}
        assert answers[0].data == answers[1].data

    def test_cursors_of_other_queries_projects_and_workspaces_are_refused(
        self, app: Flask, stored: Stored, client: FlaskClient, charlie: Tenant
    ) -> None:
        cursor = next(stored.pages("type:payment.*", 5, **{"from": "-9d"}))["next_cursor"]
        for n in range(3):
            assert send(client, charlie, event_for(charlie, event_id=f"c{n}")).status_code == 201
        theirs = next(Stored(api_of(app, charlie), charlie, []).pages("type:payment.*", 1))["next_cursor"]
        assert theirs is not None

        ask, project = stored.api.get, stored.tenant.project_id
        for q, forged in (
            ("type:payment", cursor),
            ("", cursor),
            ("type:payment.*", theirs),
            ("type:payment.*", cursor[:-2]),
            ("type:payment.*", cursor + "A"),
            ("type:payment.*", "A" * 40),
            ("type:payment.*", "."),
        ):
            assert pointers_of(ask("/v1/events", project_id=project, q=q, cursor=forged)) == {"/cursor"}

    def test_a_cursor_is_of_no_use_for_another_token(self, app: Flask, context: Context, stored: Stored) -> None:
        cursor = next(stored.pages("", 5))["next_cursor"]
        other = api_with(app, context, stored.tenant, NewToken(role=Role.AUDITOR))

        asked = other.get("/v1/events", project_id=stored.tenant.project_id, cursor=cursor)
        assert pointers_of(asked) == {"/cursor"}

    @pytest.mark.parametrize("limit", ["0", "501", "-1", "1.5", "x"])
    def test_a_limit_beyond_its_bounds_is_refused(self, stored: Stored, limit: str) -> None:
        assert pointers_of(stored.api.get("/v1/events", project_id=stored.tenant.project_id, limit=limit)) == {"/limit"}


class TestBody:
    def test_asks_the_same(self, stored: Stored) -> None:
        asked = {"project_id": stored.tenant.project_id, "q": "severity>=error", "from": "-5d", "to": "-1d", "limit": 7}

        by_body = stored.api.post("/v1/events/search", asked)
        by_query = stored.api.get("/v1/events", **asked)
        assert by_body.json is not None
        assert by_query.json is not None
        assert by_body.json["data"] == by_query.json["data"] != []

    def test_changes_nothing_and_takes_no_right(self, stored: Stored) -> None:
        wrong = stored.api.post("/v1/events/search", {"project_id": stored.tenant.project_id, "limit": "7"})

        assert pointers_of(wrong) == {"/limit"}


def test_the_next_page_is_a_link(stored: Stored) -> None:
    answer = stored.api.get("/v1/events", project_id=stored.tenant.project_id, limit=1, q="type:payment.*")

    address, relation, *_ = answer.headers["Link"].split(">")
    assert relation.startswith('; rel="next"')
    query = parse_qs(urlsplit(address).query)
    assert query["cursor"] == [(answer.json or {})["next_cursor"]]
    assert query["q"] == ["type:payment.*"]


def test_no_transaction_of_a_search_locks_more_than_eight_days(stored: Stored, context: Context) -> None:
    """A transaction keeps its locks to its end, and the server has one table of locks for all."""
    locked = (
        "SELECT count(DISTINCT relation) FROM pg_locks JOIN pg_class ON pg_class.oid = relation"
        " WHERE pid = pg_backend_pid() AND relkind = 'r' AND relname ~ '^events_'"
    )
    most: list[int] = []

    def look(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "FROM readable_events" in statement:
            most.append(connection.exec_driver_sql(locked).scalar_one())

    event.listen(context.reading.engine, "after_cursor_execute", look)
    try:
        for q in ("payload.n<0", "nowhere", "rare17"):
            stored.found(q)
    finally:
        event.remove(context.reading.engine, "after_cursor_execute", look)

    assert 0 < max(most) <= DAYS_AT_ONCE + 1, "and the default partition"
