"""Counts over the API: what is answered, what it is grouped by, and what is refused."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from app.context import Context
from app.events import segments
from app.events.counts import domain as counts
from app.events.counts import reading as counts_reading
from app.events.counts import sums as counts_sums
from app.events.statements import QueryClass
from app.maintenance.usage import fold_usage
from app.management.common.operators import Role
from app.management.tokens.domain import NewToken
from tests.events.counts_world import index_events
from tests.support.examples import examples
from tests.support.operating import UNKNOWN_ID, ApiClient, api_of, api_with
from tests.support.people import Tenant, execute
from tests.support.sending import error_of, event_for, pointers_of, send

_DAY = {"from": "2024-02-29T00:00:00Z", "to": "2024-03-01T00:00:00Z"}

# What store_events locks: the workspace, and the millisecond before which it has not taken its moment; a minute ago.
_UNDER_WAY = text(
    "SELECT pg_advisory_xact_lock_shared(x'6c72000000000000'::bigint | :workspace), pg_advisory_xact_lock_shared("
    "x'6c75000000000000'::bigint | floor(date_part('epoch', clock_timestamp()) * 1000 - 61000)::bigint)"
)


@pytest.fixture(name="api")
def _api(app: Flask, alice: Tenant) -> ApiClient:
    return api_of(app, alice)


def _counts(api: ApiClient, alice: Tenant, **query: Any) -> dict[str, Any]:
    response = api.get("/v1/events/counts", project_id=alice.project_id, **query)
    assert response.status_code == 200, response.text
    assert isinstance(response.json, dict)
    return response.json


def _refused(api: ApiClient, alice: Tenant, **query: Any) -> dict[str, Any]:
    response = api.get("/v1/events/counts", **{"project_id": alice.project_id} | query)
    assert response.status_code == 422, response.text
    return error_of(response)


def _store(context: Context, tenant: Tenant, at: str | datetime, payload: str = "{}", event_type: str = "a") -> None:
    """An event of another time, and its row in the outbox."""
    row = {
        "project": tenant.project_row,
        "workspace": tenant.workspace_row,
        "source": tenant.source_row,
        "key": tenant.key_row,
        "at": at,
        "type": event_type,
    }
    inner = "(SELECT environment_id FROM sources WHERE id = :source)"
    execute(
        context,
        "INSERT INTO events (project_id, received_at, event_uid, workspace_id, environment_id, source_id,"
        f" source_key_id, event_id, event_type, severity, occurred_at, payload) VALUES (:project, :at,"
        f" gen_random_uuid(), :workspace, {inner}, :source, :key, 'e', :type, 'info', :at, CAST(:payload AS jsonb))",
        payload=payload,
        **row,
    )
    execute(
        context,
        "INSERT INTO usage_outbox (project_id, usage_uid, workspace_id, source_id, source_key_id, outcome,"
        " payload_bytes, received_at, environment_id, event_type, severity) VALUES (:project, gen_random_uuid(),"
        f" :workspace, :source, :key, 'stored', 1, :at, {inner}, :type, 'info')",
        **row,
    )


def _groups(body: dict[str, Any]) -> list[tuple[str, str | None, int]]:
    return [(group["kind"], group["value"], group["count"]) for group in body["groups"]]


class TestAnswer:
    def test_has_every_bucket_of_the_range_and_says_which_it_cuts(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        for at in ("09:59:59.999999Z", "10:00:00Z", "12:59:59Z", "13:20:00Z", "13:30:00Z"):
            _store(context, alice, f"2024-02-29T{at}")

        query = {"from": "2024-02-29T10:00:00Z", "to": "2024-02-29T13:30:00Z"}
        body = _counts(api, alice, interval="1h", **query)

        assert (body["total"], body["interval"], body["timezone"], body["group_by"]) == (3, "1h", "UTC", "none")
        assert body["query"] == {"normalized": ""} | query
        assert [(each["start"][11:16], each["count"], each["partial"]) for each in body["buckets"]] == [
            ("10:00", 1, False),
            ("11:00", 0, False),
            ("12:00", 1, False),
            ("13:00", 1, True),
        ]
        assert all(bucket["groups"] == [] for bucket in body["buckets"])

    def test_begins_days_at_local_midnight_and_says_so_in_utc(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        for at in ("2024-02-28T18:29:59.999999Z", "2024-02-28T18:30:00Z", "2024-02-29T12:00:00Z"):
            _store(context, alice, at)

        query = {"from": "2024-02-28T00:00:00Z", "to": "2024-02-29T18:30:00Z", "timezone": "Asia/Kolkata"}
        body = _counts(api, alice, interval="1d", **query)

        assert [(each["start"], each["count"], each["partial"]) for each in body["buckets"]] == [
            ("2024-02-27T18:30:00Z", 1, True),
            ("2024-02-28T18:30:00Z", 2, False),
        ]

    def test_counts_the_open_hour_and_is_the_same_after_the_fold(
        self, api: ApiClient, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        for _ in range(3):
            assert send(client, alice).status_code == 201
        before = _counts(api, alice, group_by="key")
        fold_usage(context.database)

        after = _counts(api, alice, group_by="key", **{"from": before["query"]["from"], "to": before["query"]["to"]})

        assert before["total"] == 3
        assert after == before
        assert _groups(after) == [("string", alice.key_id, 3)]

    def test_ends_before_what_a_transaction_under_way_may_still_store(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        with context.database.transaction(alice.workspace_row) as session:
            began = datetime.now(UTC)
            session.execute(_UNDER_WAY, {"workspace": alice.workspace_row})
            until = datetime.fromisoformat(_counts(api, alice)["query"]["to"])

        assert until <= datetime.now(UTC) - timedelta(seconds=60)
        assert datetime.fromisoformat(_counts(api, alice)["query"]["to"]) >= began - timedelta(seconds=5)

    def test_counts_no_event_twice_and_none_less_while_a_segment_is_built(
        self, api: ApiClient, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is built after it was asked up to where they are."""
        for n in range(3):
            _store(context, alice, "2024-02-29T10:00:00Z", f'{{"n": "card {n}"}}')
        find = segments.segments_with

        def find_later(*arguments: Any) -> Any:
            index_events(context, alice)
            return find(*arguments)

        monkeypatch.setattr(segments, "segments_with", find_later)

        assert _counts(api, alice, q="card", **_DAY)["total"] == 3

    def test_of_a_range_that_lies_ahead_is_empty(self, api: ApiClient, alice: Tenant) -> None:
        begin = datetime.now(UTC) + timedelta(days=1)

        body = _counts(api, alice, **{"from": begin.isoformat(), "to": (begin + timedelta(hours=1)).isoformat()})

        assert (body["total"], body["buckets"]) == (0, [])

    def test_does_not_count_another_project_or_workspace(
        self, api: ApiClient, client: FlaskClient, alice: Tenant, charlie: Tenant
    ) -> None:
        assert send(client, charlie).status_code == 201

        for q in ("", "has:payload.amount"):
            assert _counts(api, alice, q=q)["total"] == 0


class TestGroups:
    def test_are_named_as_callers_know_them(self, api: ApiClient, client: FlaskClient, alice: Tenant) -> None:
        assert send(client, alice, event_for(alice, severity="error")).status_code == 201

        named = {
            "type": "payment.failed",
            "severity": "error",
            "source": alice.source_id,
            "environment": "production",
            "key": alice.key_id,
        }
        for group_by, value in named.items():
            body = _counts(api, alice, group_by=group_by)
            assert _groups(body) == [("string", value, 1)]
            assert [bucket["groups"] for bucket in body["buckets"] if bucket["count"]] == [body["groups"]]

    def test_of_a_member_of_the_payload_tell_values_lists_objects_and_nothing_apart(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        found = {
            '{"a": {"b": 49.990}}': ("number", "49.99"),
            '{"a": [{"b": 49.99}]}': ("number", "49.99"),
            '{"a": {"b": "49.99"}}': ("string", "49.99"),
            '{"a": {"b": ["x"]}}': ("string", "x"),
            '{"a": {"b": true}}': ("boolean", "true"),
            '{"a": {"b": null}}': ("null", "null"),
            '{"a": {"b": []}}': ("array", None),
            '{"a": [{"b": "x"}, {"b": "x"}]}': ("array", None),
            '{"a": {"b": {"x": 1}}}': ("object", None),
            '{"a": "b"}': ("absent", None),
            "{}": ("absent", None),
        }
        for payload in found:
            _store(context, alice, "2024-02-29T10:00:00Z", payload)

        body = _counts(api, alice, group_by='payload.a."b"', **_DAY)

        assert body["group_by"] == "payload.a.b"
        assert {(kind, value): count for kind, value, count in _groups(body)} == Counter(found.values())

    def test_are_the_ten_largest_and_the_rest(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        for n in range(12):
            for _ in range(1 + (n > 1)):
                _store(context, alice, "2024-02-29T10:00:00Z", f'{{"n": {n}}}')
        _store(context, alice, "2024-02-29T11:00:00Z")

        body = _counts(api, alice, group_by="payload.n", **_DAY)

        values = sorted(map(str, range(2, 12)))
        assert _groups(body) == [*(("number", value, 2) for value in values), ("absent", None, 1), ("rest", None, 2)]
        assert sum(count for _, _, count in _groups(body)) == body["total"] == 23

    def test_are_the_largest_also_if_a_statement_cannot_keep_all(
        self, api: ApiClient, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for n in range(12):
            for _ in range(1 + (n > 1)):
                _store(context, alice, "2024-02-29T10:00:00Z", f'{{"n": "{n:02}"}}')
        monkeypatch.setattr(counts_sums, "_ROWS_MAX", 1)

        body = _counts(api, alice, group_by="payload.n", **_DAY)

        assert _groups(body) == [*(("string", f"{n:02}", 2) for n in range(2, 12)), ("rest", None, 2)]

    def test_are_exact_where_no_statement_could_keep_all(
        self, api: ApiClient, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Eleven values in each of two statements. The first cannot keep "10", which leads in the second."""
        for n in range(11):
            _store(context, alice, "2024-01-01T10:00:00Z", f'{{"n": "{n:02}"}}')
            _store(context, alice, "2024-02-01T10:00:00Z", f'{{"n": "{20 - n:02}"}}')
        for _ in range(2):
            _store(context, alice, "2024-02-01T10:00:00Z", '{"n": "10"}')
        monkeypatch.setattr(counts_sums, "_ROWS_MAX", 1)

        body = _counts(
            api, alice, group_by="payload.n", **{"from": "2024-01-01T00:00:00Z", "to": "2024-03-01T00:00:00Z"}
        )

        others = [("string", f"{n:02}", 1) for n in range(9)]
        assert _groups(body) == [("string", "10", 4), *others, ("rest", None, 11)]
        assert body["total"] == 24

    def test_tell_strings_apart_by_their_first_256_characters(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        for end in ("", "b", "c"):
            _store(context, alice, "2024-02-29T10:00:00Z", f'{{"n": "{"é" * 256}{end}"}}')

        assert _groups(_counts(api, alice, group_by="payload.n", **_DAY)) == [("string", "é" * 256, 3)]


class TestRefusals:
    @pytest.mark.parametrize(
        ("query", "pointer"),
        [
            ({"from": "2024-03-01T00:00:00Z", "to": "2024-02-29T00:00:00Z"}, "/to"),
            ({"from": "2014-02-28T00:00:00Z", "to": "2024-02-29T00:00:00Z"}, "/from"),
            ({"from": "yesterday"}, "/from"),
            ({"interval": "1y"}, "/interval"),
            ({"interval": ""}, "/interval"),
            ({"interval": "1m", "from": "-24h"}, "/interval"),
            ({"timezone": "Berlin"}, "/timezone"),
            ({"timezone": "Europe/Berlin\0"}, "/timezone"),
            ({"group_by": "event_type"}, "/group_by"),
            ({"group_by": ""}, "/group_by"),
            ({"group_by": "payload"}, "/group_by"),
            ({"group_by": "payload.a OR payload.b"}, "/group_by"),
            ({"group_by": "payload.a:1"}, "/group_by"),
            ({"group_by": 'payload."a'}, "/group_by"),
            ({"group_by": "payload.\0"}, "/group_by"),
            ({"group_by": "payload.a "}, "/group_by"),
            ({"group_by": f"payload.{'a' * 500}"}, "/group_by"),
            ({"q": "typ:a"}, "/q"),
            ({"q": "source:src_none"}, "/q"),
            ({"limit": "1"}, "/limit"),
            ({"project_id": "no id!"}, "/project_id"),
        ],
    )
    def test_say_where_the_request_is_wrong(
        self, api: ApiClient, alice: Tenant, query: dict[str, str], pointer: str
    ) -> None:
        error = _refused(api, alice, **query)

        assert {detail["pointer"] for detail in error["details"]} == {pointer}

    def test_name_what_may_have_been_meant(self, api: ApiClient, alice: Tenant) -> None:
        def suggested(**query: str) -> list[str]:
            suggestions = _refused(api, alice, **query)["details"][0]["suggestions"]
            assert isinstance(suggestions, list)
            return suggestions

        assert "Europe/Berlin" in suggested(timezone="Europe/Berlln")
        assert suggested(group_by="sorce") == ["source"]
        assert suggested(interval="1m", **{"from": "-24h"}) == ["5m"]

    def test_say_where_in_a_path_it_is_wrong(self, api: ApiClient, alice: Tenant) -> None:
        (detail,) = _refused(api, alice, group_by="payload.a payload.b:1")["details"]

        assert (detail["offset"], detail["length"]) == (0, 21)

    def test_are_the_same_for_a_foreign_project_and_for_none(
        self, app: Flask, context: Context, api: ApiClient, alice: Tenant, charlie: Tenant
    ) -> None:
        other = api.made("/v1/projects", {"name": "other"})["id"]
        narrow = api_with(app, context, alice, NewToken(role=Role.AUDITOR, label="narrow", project_ids=(other,)))

        for client, project_id in ((api, charlie.project_id), (api, UNKNOWN_ID), (narrow, alice.project_id)):
            response = client.get("/v1/events/counts", project_id=project_id)
            assert (response.status_code, pointers_of(response)) == (404, {"/project_id"})

    def test_come_before_too_many_rows_are_read(
        self, api: ApiClient, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for minute in (10, 20):
            _store(context, alice, f"2024-02-29T10:{minute}:00Z", '{"n": 1}', event_type="login")
        monkeypatch.setattr(counts_reading, "ROWS_MAX", 1)

        for query in ({"q": "-payload.n:7"}, {"group_by": "payload.n"}, {"interval": "15m", "group_by": "type"}):
            error = _refused(api, alice, **_DAY | query)
            assert error["code"] == "query_too_broad"
            assert "About 2 events" in error["message"]
        for query in ({}, {"q": "type:login", "interval": "1h"}):
            assert _counts(api, alice, **_DAY | query)["total"] == 2
        assert _counts(api, alice, q="-payload.n:7 type:other", **_DAY)["total"] == 0

    def test_come_when_time_is_over(self, api: ApiClient, alice: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(counts, "COUNTS", QueryClass(0.001))

        assert _refused(api, alice, group_by="payload.n", **_DAY)["code"] == "query_too_broad"

    @given(
        st.fixed_dictionaries(
            {},
            optional={
                name: st.text(max_size=30)
                | st.sampled_from(["1m", "-400d", "payload.a", "UTC", "9997-12-31T23:59:59Z"])
                for name in ("q", "from", "to", "interval", "group_by", "timezone")
            },
        )
    )
    @settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_are_never_our_fault(self, api: ApiClient, alice: Tenant, query: dict[str, str]) -> None:
        sent = {name: value.encode("utf-8", "replace") for name, value in query.items()}

        assert api.get("/v1/events/counts", project_id=alice.project_id, **sent).status_code in (200, 422)
